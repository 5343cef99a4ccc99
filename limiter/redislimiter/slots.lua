-- Slots in flight. What holds some is a sorted set: each holder by the time when
-- its lease ends, its member being its id and, behind a colon, how many slots it
-- has; 1 is not written. The score of '#' is minus the sum of the slots.
--
-- KEYS are such sets, ARGV[1] is the time, as in clock.lua, ARGV[2] how long a
-- lease is, in microseconds, and ARGV[3] what to do, with the arguments behind it:
--
--   take   the member, and for each of KEYS how many slots there are; all
--          or nothing. The answer: how many of KEYS had room, all of them if it was
--          taken or already was, and for each how many slots are in use then.
--   keep   for each holder its key's place in KEYS, and the member. What has
--          ended is begun anew: who asks still holds it, whatever the server
--          has forgotten. The answer: how many had ended.
--   free   the same arguments. The answer: how many were there.
local lease = ARGV[2] + 0

local function slots_of(member) return tonumber(match(member, ':(%d+)$')) or 1 end

local function add(key, slots) call('ZINCRBY', key, -slots, '#') end

-- Takes out those whose lease has ended. After the clock was set back leases are
-- no longer than ever.
local function clean(key)
  local ended = call('ZRANGEBYSCORE', key, 0, now)
  for i = 1, #ended do add(key, -slots_of(ended[i])) end
  if #ended > 0 then call('ZREMRANGEBYSCORE', key, 0, now) end
  local far = call('ZRANGEBYSCORE', key, format('(%.0f', now + lease), '+inf')
  for i = 1, #far do call('ZADD', key, format('%.0f', now + lease), far[i]) end
end

-- Reports whether the member was not there.
local function hold(key, member)
  local new = call('ZADD', key, format('%.0f', now + lease), member) == 1
  if new then add(key, slots_of(member)) end
  call('PEXPIRE', key, format('%.0f', ceil(lease / 1000)))
  return new
end

local function in_use(key)
  local sum = call('ZSCORE', key, '#')
  return sum and -sum or 0
end

local n = 0
if ARGV[3] == 'take' then
  local member, held = ARGV[4], false
  for k = 1, #KEYS do
    clean(KEYS[k])
    local used = in_use(KEYS[k])
    held = held or call('ZSCORE', KEYS[k], member)
    if n == k - 1 and (used == 0 or used + slots_of(member) <= ARGV[4 + k] + 0) then n = k end
  end
  if held then n = #KEYS end
  if n == #KEYS then
    for k = 1, n do hold(KEYS[k], member) end
  end
  return { n }
end

for a = 4, #ARGV, 2 do
  local key, member = KEYS[ARGV[a] + 0], ARGV[a + 1]
  if ARGV[3] == 'keep' then
    if hold(key, member) then n = n + 1 end
  elseif call('ZREM', key, member) == 1 then
    n = n + 1
    add(key, -slots_of(member))
    if in_use(key) <= 0 then call('DEL', key) end
  end
end
return { n }
