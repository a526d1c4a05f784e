# Two commands do everything on a fresh machine: `make demo` and `make test`.

DEMO = --seconds 30
FEATURES = --workspace --features lockstep/failpoints
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: demo test check setup fmt clippy fuzz fuzz-sql fuzz-api clean

# The demonstration on a private cluster. DEMO="--products 100000 --seconds 60 --rate 500" changes it.
demo: setup
	cargo run --quiet -p lockstep -- demo $(DEMO)

# All tests, against clusters of the installed PostgreSQL (LOCKSTEP_PG_BIN chooses another).
test: setup
ifdef NEXTEST
	cargo nextest run $(FEATURES)
else
	cargo test $(FEATURES)
endif

# What people and CI run before a landing.
check: setup fmt clippy test

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy $(FEATURES) --all-targets -- --deny warnings

setup:
	@bash scripts/setup.sh

# The decoder on arbitrary bytes, for a minute (needs cargo-fuzz).
fuzz: setup
	cd crates/wal && RUSTC_BOOTSTRAP=1 cargo fuzz run pgoutput -- -max_total_time=60

# Thousands of random queries through random changes; QUERIES=20000 makes it longer, LOCKSTEP_SEED=… repeats a run.
QUERIES = 4000
fuzz-sql: setup
	LOCKSTEP_SQL_QUERIES=$(QUERIES) cargo test $(FEATURES) --test scenarios random_queries -- --nocapture

# The read API against its own OpenAPI document (needs Python). EXAMPLES=1000 makes it longer, SEED=… repeats a run.
fuzz-api: setup
	bash scripts/fuzz-api.sh

clean:
	cargo clean
