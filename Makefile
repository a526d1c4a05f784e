# Two commands do everything on a fresh machine: `make demo` and `make test`.

DEMO = --seconds 30
FEATURES = --workspace --features lockstep/failpoints
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)
DENY := $(shell command -v cargo-deny 2>/dev/null)

.PHONY: help demo test check setup fmt clippy deny fuzz fuzz-sql fuzz-api bench bench-full release clean
.DEFAULT_GOAL := help

# What there is.
help:
	@awk '/^# /{said=substr($$0,3)} /^[a-z-]+:/{split($$0,name,":"); if (said) printf "  make %-10s %s\n", name[1], said; said=""} /^$$/{said=""}' $(MAKEFILE_LIST)

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
check: setup fmt clippy deny test

# Formatting, as rustfmt.toml has it.
fmt:
	cargo fmt --all --check

# Lints; a warning is an error.
clippy:
	cargo clippy $(FEATURES) --all-targets -- --deny warnings

# Licences, bans and sources of what is built upon (deny.toml), where cargo-deny is installed.
deny:
ifdef DENY
	cargo deny check bans licenses sources
else
	@echo "cargo-deny is not installed: deny.toml is not checked (cargo install cargo-deny --locked)"
endif

# What a fresh machine lacks.
setup:
	@bash scripts/setup.sh

# The decoder on arbitrary bytes, for a minute (needs cargo-fuzz).
fuzz: setup
	cd crates/wal && RUSTC_BOOTSTRAP=1 cargo fuzz run pgoutput -- -max_total_time=60

# Thousands of random queries through random changes; QUERIES=1000 makes it shorter, LOCKSTEP_SEED=… repeats a run.
QUERIES = 20000
fuzz-sql: setup
	LOCKSTEP_SQL_QUERIES=$(QUERIES) cargo test $(FEATURES) --test scenarios random_queries -- --nocapture

# The read API against its own OpenAPI document (needs Python). EXAMPLES=1000 makes it longer, SEED=… repeats a run.
fuzz-api: setup
	bash scripts/fuzz-api.sh

# The release program measured against PostgreSQL itself, under ten minutes; writes docs/benchmarks.md. BENCH="--only freshness" runs one.
bench: release
	target/release/lockstep-bench $(BENCH)

# The same with larger tables, longer windows and more rounds: more than an hour.
bench-full: release
	target/release/lockstep-bench --full $(BENCH)

release: setup
	cargo build --release -p lockstep -p lockstep-bench

# Everything that was built goes.
clean:
	cargo clean
