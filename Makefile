# Two commands on a fresh machine: `make demo` and `make test`. Both share one build of RocksDB: always the default
# members, in release, with the default features. Anything else would compile RocksDB again.

CARGO ?= cargo
TARGET = $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt libclang sshd nginx

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: libclang ## The main job on real input (or on yours: make demo OLD=dir NEW=dir)
	$(CARGO) build --release --bins --examples
	"$(TARGET)/release/examples/demo" "$(TARGET)/demo" $(if $(OLD)$(NEW),"$(OLD)" "$(NEW)")

test: libclang ## Build and run all tests
	$(CARGO) test --release

lint: libclang ## Formatting, clippy, docs
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --release --no-deps

fmt: ## Format the sources
	$(CARGO) fmt --all

# RocksDB's bindings are generated at build time, which needs libclang (and a C++ compiler).
SUDO = $(if $(filter 0,$(shell id -u)),,$(if $(shell command -v sudo),sudo))
libclang:
	@have() { command -v "$$1" >/dev/null 2>&1; }; \
	found() { \
	  [ -n "$$LIBCLANG_PATH" ] && return 0; \
	  ldconfig -p 2>/dev/null | grep -Eq 'libclang(-[0-9.]+)?\.so' && return 0; \
	  for lib in /usr/lib/llvm*/lib/libclang.so* /usr/lib/llvm*/lib/libclang-[0-9]*.so* /usr/lib64/libclang.so* \
	    /usr/lib/libclang.so* /Library/Developer/CommandLineTools/usr/lib/libclang.dylib \
	    /opt/homebrew/opt/llvm/lib/libclang.dylib /usr/local/opt/llvm/lib/libclang.dylib \
	    /Applications/Xcode.app; do [ -e "$$lib" ] && return 0; done; \
	  return 1; }; \
	compiler() { have c++ || have g++ || have clang++; }; \
	if found && compiler; then exit 0; fi; \
	echo "installing libclang and a C++ compiler: RocksDB needs them to compile" >&2; \
	if have apt-get; then $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq libclang-dev g++ >/dev/null; \
	elif have dnf; then $(SUDO) dnf install -y -q clang-devel gcc-c++; \
	elif have pacman; then $(SUDO) pacman -Sy --noconfirm --needed clang gcc; \
	elif have brew; then brew install llvm; \
	elif have xcode-select; then xcode-select --install; \
	else echo "error: no package manager known here" >&2; false; fi \
	|| { echo "error: install libclang and a C++ compiler by hand (clang.llvm.org), or set LIBCLANG_PATH to the directory of libclang" >&2; exit 1; }

# For one test; everything else works without it.
sshd:
	@have() { command -v "$$1" >/dev/null 2>&1; }; \
	if [ -x /usr/sbin/sshd ]; then exit 0; fi; \
	echo "installing sshd: a test syncs through it" >&2; \
	if have apt-get; then $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq openssh-server >/dev/null; \
	elif have dnf; then $(SUDO) dnf install -y -q openssh-server; \
	elif have pacman; then $(SUDO) pacman -Sy --noconfirm --needed openssh; \
	else echo "error: no package manager known here" >&2; false; fi

# For two tests; everything else works without it.
nginx:
	@have() { command -v "$$1" >/dev/null 2>&1; }; \
	if [ -x /usr/sbin/nginx ] || have nginx; then exit 0; fi; \
	echo "installing nginx: two tests sync through it" >&2; \
	if have apt-get; then $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq nginx >/dev/null; \
	elif have dnf; then $(SUDO) dnf install -y -q nginx; \
	elif have pacman; then $(SUDO) pacman -Sy --noconfirm --needed nginx; \
	else echo "error: no package manager known here" >&2; false; fi
