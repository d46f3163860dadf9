package cpu

import xcpu "golang.org/x/sys/cpu"

//go:generate go run ./internal/gen

// available returns the instruction sets of this processor, the best first.
func available() []*isa {
	x := &xcpu.X86
	var list []*isa
	if x.HasAVX2 && x.HasFMA && x.HasBMI2 {
		if x.HasAVX512F && x.HasAVX512DQ {
			if x.HasAVX512BF16 {
				list = append(list, &avx512bf16)
			}
			list = append(list, &avx512)
		}
		list = append(list, &avx2)
	}
	return append(list, &generic)
}

var avx2 = isa{
	name: "avx2", mr: 6, nr: 16,
	gemm: gemmAVX2, gemmHalf: gemmHalfAVX2, pack: packAVX2, packT: packTAVX2, packCols: packColsAVX2, packColsSum: packColsSumAVX2, copyRows: copyRowsAVX2, prefetch: prefetchAVX2,
	widen: widenAVX2, narrow: narrowAVX2, addHalf: addHalfAVX2, narrowAdd: narrowAddAVX2, biasGeluHalf: biasGeluHalfAVX2, geluGradHalf: geluGradHalfAVX2,
	add: addAVX2, axpy: axpyAVX2, scale: scaleAVX2, scaleAdd: scaleAddAVX2,
	mul: mulAVX2, mulAdd: mulAddAVX2, mulAcc: mulAccAVX2,
	gelu: geluAVX2, geluGrad: geluGradAVX2, biasGelu: biasGeluAVX2, tanh: tanhAVX2, tanhGrad: tanhGradAVX2,
	max: maxAVX2, dot: dotAVX2, expSum: expSumAVX2,
	softmaxRows: softmaxRowsAVX2, softmaxGradRows: softmaxGradRowsAVX2, scaleRows: scaleRowsAVX2, dotRows: dotRowsAVX2,
	layerNorm: layerNormAVX2, layerNormGrad: layerNormGradAVX2, adamW: adamWAVX2,
}

var avx512 = isa{
	name: "avx512", mr: 14, nr: 32,
	gemm: gemmAVX512, gemmHalf: gemmHalfAVX512, pack: packAVX512, packT: packTAVX512, packCols: packColsAVX512, packColsSum: packColsSumAVX512, copyRows: copyRowsAVX512, prefetch: prefetchAVX512,
	widen: widenAVX512, narrow: narrowAVX512, addHalf: addHalfAVX512, narrowAdd: narrowAddAVX512, biasGeluHalf: biasGeluHalfAVX512, geluGradHalf: geluGradHalfAVX512,
	add: addAVX512, axpy: axpyAVX512, scale: scaleAVX512, scaleAdd: scaleAddAVX512,
	mul: mulAVX512, mulAdd: mulAddAVX512, mulAcc: mulAccAVX512,
	gelu: geluAVX512, geluGrad: geluGradAVX512, biasGelu: biasGeluAVX512, tanh: tanhAVX512, tanhGrad: tanhGradAVX512,
	max: maxAVX512, dot: dotAVX512, expSum: expSumAVX512,
	softmaxRows: softmaxRowsAVX512, softmaxGradRows: softmaxGradRowsAVX512, scaleRows: scaleRowsAVX512, dotRows: dotRowsAVX512,
	layerNorm: layerNormAVX512, layerNormGrad: layerNormGradAVX512, adamW: adamWAVX512,
}

// avx512bf16 is avx512 with products of bfloat16s, and rounding to them.
var avx512bf16 = withPairs(avx512)

func withPairs(s isa) isa {
	s.name = "avx512bf16"
	s.gemmPairs, s.packPairs, s.packColsPairs = gemmPairsAVX512, packPairsAVX512, packColsPairsAVX512
	s.narrow, s.narrowAdd = narrowAVX512BF16, narrowAddAVX512BF16
	s.biasGeluHalf, s.geluGradHalf = biasGeluHalfAVX512BF16, geluGradHalfAVX512BF16
	return s
}
