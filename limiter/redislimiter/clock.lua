-- What every script begins with.
--
-- KEYS are the states, ARGV[1] is the time, or 0 for the server's.
local KEYS, ARGV = KEYS, ARGV
local call, sub, format, match = redis.call, string.sub, string.format, string.match
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

local now = ARGV[1] + 0
local client = now > 0
if not client then
  -- Once: two calls differ.
  local t = call('TIME')
  now = t[1] * 1000000 + t[2]
end
-- Clients' times arrive late and out of order, by a second at most, or their
-- clocks do not agree. What is whole by the server's clock may not be so by that
-- of a call that was held up, so such states are kept so many milliseconds longer.
local spare = client and 1000 or 0
