#!/usr/bin/env bash
# Schemathesis against the read API of a running demonstration: requests made from the OpenAPI document, and such as violate it. No
# answer may be a server's error, and every answer must be what the document says. EXAMPLES=1000 makes it longer, SEED=… repeats a run.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/schemathesis
if [ ! -x "$venv/bin/st" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'schemathesis>=4.32,<5'
fi

cargo build --quiet -p lockstep
output=$(mktemp)
target/debug/lockstep demo --products 2000 --rate 20 --log warn >"$output" 2>&1 &
demo=$!
trap 'kill "$demo" 2>/dev/null; wait "$demo" 2>/dev/null; rm -f "$output"' EXIT

address=""
for _ in $(seq 600); do
    address=$(sed -n "s|^ask it: *curl 'http://\([^/]*\)/.*|\1|p" "$output")
    [ -n "$address" ] && break
    kill -0 "$demo" 2>/dev/null || { cat "$output" >&2; exit 1; }
    sleep 0.2
done
[ -n "$address" ] || { echo "the demonstration does not serve" >&2; cat "$output" >&2; exit 1; }

# The feed is a stream without end. Whether a text is a value of its column's type no schema says: so neither is a refusal of what the
# document allows a fault (positive_data_acceptance), nor an answer to what it does not (negative_data_rejection).
PYTHONPATH=scripts SCHEMATHESIS_HOOKS=schemathesis_checks "$venv/bin/st" run "http://$address/openapi.json" --no-color --warnings off \
    --exclude-path-regex '^/api/changes/' \
    --checks no_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance \
    --max-examples "${EXAMPLES:-50}" --request-timeout 20 ${SEED:+--seed "$SEED"}
