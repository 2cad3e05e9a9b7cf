-- Sends the bodies named in the job file in turn, and writes one line an answer: seconds, status, bytes.
-- wrk's own counts start and end in the middle of batches; exact times let the bench count whole ones.
local ffi = require("ffi")
ffi.cdef("typedef struct { long sec; long nsec; } bench_time; int clock_gettime(int clock, bench_time *t);")
local clock = ffi.new("bench_time")
local requests, turn = {}, 0

local function now()
  ffi.C.clock_gettime(1, clock) -- CLOCK_MONOTONIC
  return tonumber(clock.sec) + tonumber(clock.nsec) * 1e-9
end

function init(args)
  local job = io.open(args[1])
  out = io.open(job:read("l"), "w")
  out:setvbuf("line")
  local content_type = job:read("l")
  for path in job:lines() do
    local file = io.open(path, "rb")
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = content_type }, file:read("*a"))
    file:close()
  end
  job:close()
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status, headers, body)
  out:write(string.format("%.6f %d %d\n", now(), status, #body))
end

function done(summary, latency)
  io.write(string.format("\n{\"p50_ms\": %.3f, \"p95_ms\": %.3f, \"p99_ms\": %.3f, \"timeouts\": %d, \"broken\": %d}\n",
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000, summary.errors.timeout,
    summary.errors.connect + summary.errors.read + summary.errors.write))
end
