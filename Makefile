# Everything that one types in this project. `make` alone lists it.

GO      ?= go
PREFIX  ?= /usr/local
ARCH    := $(shell $(GO) env GOARCH)
VERSION  = $(shell git describe --tags --always --dirty 2>/dev/null)

# Without cgo the programs are static, and only `make race` needs a C compiler. The version comes from git describe, not
# from the go command: that one refuses to build in a clone that belongs to another user.
export CGO_ENABLED := 0
export GOFLAGS     := $(strip $(GOFLAGS) -buildvcs=false)

TESTREPORT = $(GO) run ./internal/cmd/testreport
GO_SOURCES := $(shell find . -name '*.go' ! -name '*_test.go' ! -path './tools/*' ! -path './build/*') go.mod go.sum

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

##@ Use

.PHONY: run
run: deps build ## boot a VM under the emulator and run a command in it
	bin/smartvm run --emulate --rm -- sh -c 'echo "Hello from a microVM:"; uname -a; cat /proc/cmdline'

.PHONY: deps
deps: ## install what is missing from Debian's packages (as root)
	@tools/deps

.PHONY: build
build: guest-init ## bin/smartvm and bin/firecracker-emulator
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/smartvm ./cmd/firecracker-emulator

.PHONY: install
install: build ## install both into PREFIX (/usr/local), below DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 0755 bin/smartvm bin/firecracker-emulator $(DESTDIR)$(PREFIX)/bin/
	bin/smartvm completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/smartvm

##@ Prove

# One package at a time: VMMs are sessions of their own, and so scheduling groups of their own (autogroup, sched(7)). Where
# hundreds are started, the tests of another package would get hardly any of the CPU.
#
# Without the image, the tests that boot a guest are skipped and listed: a machine that cannot have the packages can
# still run the others.
.PHONY: test
test: build ## every test that can run here; ends with a list: level, passed, failed, skipped and why
	@$(MAKE) --no-print-directory image || echo 'make: no test image (see above): tests that boot a guest are skipped' >&2
	$(TESTREPORT) $(GO) test -p 1 -json -count=1 -timeout 15m ./... --then $(GO) run ./internal/cmd/lab -short -or-skip

# For example: make lab RUN=Snapshot, make lab SMARTVM_FIRECRACKER=/opt/firecracker. docs/lab.md tells more.
LAB = $(GO) run ./internal/cmd/lab
RUN ?=

.PHONY: lab
lab: build image ## tests on a throw-away host with KVM, in QEMU; RUN=TestName for some of them
	$(TESTREPORT) $(LAB) -run '$(RUN)' $(if $(COVER),-coverprofile $(COVER))

.PHONY: lab-shell
lab-shell: build image ## a shell on that host
	@$(LAB) -shell

.PHONY: check
check: fmt vet lint vuln cross race ## all that a change must pass beside the tests

.PHONY: fmt
fmt: ## is everything formatted?
	@unformatted=$$(gofmt -l .) && if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi

.PHONY: vet
vet: guest-init
	$(GO) vet ./...

.PHONY: lint
lint: guest-init build/tools/golangci-lint
	build/tools/golangci-lint run ./...

# Exit code 3 means findings. Any other failure is most likely a database that cannot be reached from here: said, not
# counted.
.PHONY: vuln
vuln: build/tools/golangci-lint ## known vulnerabilities in what we call, where the database can be reached
	@timeout 120 build/tools/govulncheck ./...; case $$? in \
		0) ;; 3) exit 1;; \
		*) echo 'make: govulncheck could not ask its database: NOT CHECKED for known vulnerabilities' >&2;; esac

.PHONY: cross
cross: guest-init ## builds for arm64; what is portable is vetted for macOS and Windows
	GOARCH=arm64 $(GO) build ./...
	GOARCH=arm64 $(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...

# Guests are left out: they would boot a second time, and the race detector sees nothing of them.
.PHONY: race
race: build ## the tests that boot no guest, under the race detector
	CGO_ENABLED=1 SMARTVM_TEST_LEVELS=unit,host $(TESTREPORT) $(GO) test -p 1 -race -json -count=1 -timeout 15m ./...

.PHONY: bench
bench: build image ## benchmarks, each beside its bare counterpart
	$(GO) test -run '^$$' -bench . -p 1 -timeout 60m ./...

##@ Parts

.PHONY: guest-init
guest-init: build/guest-init.stamp ## the guest's init for both architectures, into guest/dist

# The file is only replaced when it differs: the image is made from it, and should not be made again for nothing.
build/guest-init.stamp: $(filter ./guest/% ./internal/% go.%,$(GO_SOURCES))
	@mkdir -p build guest/dist
	@for arch in amd64 arm64; do \
		new=build/init-$$arch; old=guest/dist/init-$$arch; \
		GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags '-s -w -buildid=' -o $$new ./guest/init || exit 1; \
		if cmp -s $$new $$old; then rm $$new; else mv $$new $$old; echo "guest-init: $$old"; fi; \
	done
	@touch $@

.PHONY: image
image: build build/image/manifest.json ## the tests' base image, into build/image

IMAGE_PARTS = build/guest-init.stamp guest/dist/init-$(ARCH) $(filter ./image/% ./internal/cpio/%,$(GO_SOURCES))

build/image/manifest.json: $(IMAGE_PARTS) | build
	SMARTVM_DATA_DIR=$(CURDIR)/build/data bin/smartvm image build --dir build/image
	@touch $@

guest/dist/init-$(ARCH): build/guest-init.stamp ;

build/tools/golangci-lint: tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../build/tools/ tool
	@touch $@

##@ Housekeeping

.PHONY: module
module: ## MODULE=example.com/x: give the Go module another path, everywhere
	@[ -n '$(MODULE)' ] || { echo 'usage: make module MODULE=example.com/x' >&2; exit 2; }
	$(GO) run ./internal/cmd/renamemodule '$(MODULE)'

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin build guest/dist/init-amd64 guest/dist/init-arm64

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
