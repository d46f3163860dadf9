package jpeg

func inverseDCTBlock(dst []byte, stride int, b *[64]int16) { inverseDCTGo(dst, stride, b) }

func convert(out, luma, cb, cr []byte) { convertGo(out, luma, cb, cr) }
