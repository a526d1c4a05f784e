-- Two kinds of requests, half each, for wrk:
--   wrk -t2 -c50 -d30s --latency -s scripts/load.lua http://127.0.0.1:8080
local paths = { "/api/products?page=1&limit=20", "/api/products?priceMin=50000&priceMax=150000&inStock=true" }
-- The sample data's prices lie between 40 and 339: a range in which there is something.
if os.getenv("SAMPLE") then paths[2] = "/api/products?priceMin=100&priceMax=200&inStock=true" end
-- A client of the plan's load test thinks for about a second before the next request; THINK=0 for none.
local think = tonumber(os.getenv("THINK") or "1000")
local turn = 0

request = function()
    turn = turn + 1
    return wrk.format("GET", paths[1 + turn % 2])
end

if think > 0 then
    -- Not all at the same moment.
    delay = function() return math.random(math.floor(think / 2), math.floor(think * 3 / 2)) end
end

done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format("requests %d in %.1f s, %.0f/s; not 200: %d, socket errors: %d\n", summary.requests,
        summary.duration / 1e6, summary.requests / summary.duration * 1e6, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
    io.write(string.format("latency ms: p50 %.1f, p95 %.1f, p99 %.1f, max %.1f\n", latency:percentile(50) / 1000,
        latency:percentile(95) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
