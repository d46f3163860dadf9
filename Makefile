# `make help` lists the targets.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.DEFAULT_GOAL := help
.PHONY: help build cuda test-cuda race-cuda dockerfile mutants gpu-check test fixtures turbo race isa lint arm64 generate bench demo verify ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/vlmo-train, a static binary
	CGO_ENABLED=0 go build -trimpath -o bin/vlmo-train ./cmd/vlmo-train

cuda: ## bin/vlmo-train for NVIDIA GPUs (needs gcc, and nvcc or python3)
	scripts/cuda.sh build

test-cuda: ## the CUDA kernels on this CPU, in the thread orders of two seeds (needs g++ and python3, no GPU)
	scripts/cuda.sh test 1 2

race-cuda: ## a part of that under Go's race detector
	scripts/cuda.sh race

dockerfile: ## what the lines of Dockerfile.cuda come to on this machine (Debian or Ubuntu), without Docker
	scripts/dockerfile-check.sh

mutants: ## known mistakes in the CUDA kernels, which the tests must find (after make test-cuda)
	scripts/mutants.sh --result kernels/cuda/mutants/README.md

gpu-check: ## build/gpu-check.tar.xz, which checks and measures a machine with a GPU without Go
	scripts/gpu-check.sh

test: ## all tests
	CGO_ENABLED=0 go test ./...

fixtures: ## the tests with fixtures that the real tools write from SEEDS (needs PYTHON, PYTHON_TORCH: see scripts/fixtures.sh)
	scripts/fixtures.sh $(SEEDS)

turbo: ## the tests of data/img with libjpeg-turbo (needs a C compiler, pkg-config and libturbojpeg0-dev)
	CGO_ENABLED=1 go test -tags turbo ./data/img/...

race: ## the packages where goroutines meet, under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -skip 'TestEmulat|TestNoAllocation|TestConformance/avx|TestConformance/generic/[12]' ./data/dataset/... ./data/loader ./data/survey ./kernels/cpu

isa: ## the parity cases with each instruction set of this processor
	scripts/isa.sh

lint: ## gofmt, go vet, staticcheck, shellcheck, generated files
	STATICCHECK=$(STATICCHECK) scripts/lint.sh

arm64: ## build for arm64 and test the kernels in qemu-user
	scripts/arm64.sh

generate: ## write the assembly of kernels/cpu and data/img anew
	go generate ./...

bench: ## benchmarks into bench/results
	scripts/bench.sh

demo: ## train all stages on the emoji set and write a report
	go run ./cmd/vlmo-train demo

verify: ## hold the model against the original's tensors
	go run ./cmd/vlmo-train verify testdata/parity

ci: ## everything that continuous integration runs
	.ci/run

clean: ## remove what was built and the test cache
	rm -rf bin
	go clean -testcache
