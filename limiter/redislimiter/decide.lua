-- Decides about any number of questions in one step. Nothing is written before
-- everything is read, so that an error leaves nothing half done.
--
-- The arguments of a question, which is one decision:
--
--   its number of charges + 2^20 * how often it is asked (0: once)
--   for each charge:
--     its key's place in KEYS * 4 + the kind of its state:
--       0 bucket, 1 fixed window, 2 sliding window, 3 log
--     price   microseconds of a bucket, units of the others; 0 only looks
--     most    bucket: how far ahead the arrival may be for the charge to fit, -1 if
--             it never can; others: the limit
--     size    bucket: its capacity; others: the length of the window
--     mark    bucket: its reach, and 't' behind it if the caller may wait
--             log: the id of the event
--
-- or only 0: about the next of KEYS, once, and otherwise as the question before,
-- which was about one bucket.
--
-- The answer is the time, and for each question how often it was granted, and
-- for each of its charges the state after that:
--
--   bucket          how far ahead the arrival is, what was given back
--   fixed window    the end of the window, units, birth
--   sliding window  the end of the window, units, before, birth
--   log             units, when the last leaves, when more fit, when this would:
--                   in microseconds from now, 0 if it is no matter
local states = {}
local n, total = 1, #ARGV

-- How far ahead the arrival of a bucket is, 0 or more.
local function ahead_of(s, price, most, size, mark)
  local ahead = s.at - now
  if ahead <= 0 then return 0 end
  if ahead > size then
    -- Others may have a larger capacity, or wait for their turns. But if it is
    -- further ahead than ever it was, the clock was set back. How much was
    -- taken is not known then: all there is, as this charge sees it.
    local was = tonumber(s.reach)
    was = was and floor(2 ^ (was / 18)) or 0
    if ahead > was then
      ahead = max(size, most + price)
      if was > 0 and was < ahead then ahead = was else s.reach = sub(mark, 1, 3) end
      s.at, s.moved = now + ahead, true
    end
  end
  return ahead
end

local function charge_bucket(s, price, size, mark)
  if s.at <= now then
    if s.given <= now - s.at then s.given = 0 end
    s.at, s.turns = now, false
  end
  s.at = s.at + price
  if #mark > 3 then
    -- Who waits may be ready to wait for ever: what counts is the turn.
    s.turns = true
    mark = format('%03.0f', ceil(18 * math.log(max(s.at - now, size, 1)) / math.log(2) + 0.001))
  end
  s.reach = mark
  s.changed = true
end

-- One charge to a bucket, times times: most questions are that.
local function decide_bucket(i, times, answer)
  local k, price, most, size, mark = ARGV[i] / 4, ARGV[i + 1] + 0, ARGV[i + 2] + 0, ARGV[i + 3] + 0, ARGV[i + 4]
  local s = states[k]
  if not s then
    s = load_bucket(KEYS[k])
    states[k] = s
  end
  local granted, ahead = times, ahead_of(s, price, most, size, mark)
  if price > 0 then
    s.asked = true
    if ahead > most then
      granted = 0
    else
      if times > 1 then granted = min(times, floor((most - ahead) / price) + 1) end
      charge_bucket(s, price * granted, size, mark)
    end
  end
  answer[n + 1], answer[n + 2], answer[n + 3] = granted, s.at - now, s.given
  n = n + 3
end

-- Any question, and what is written when all are decided. Made when it is needed.
local function make_rest()
  local load_window, save_window = make_windows()
  local kinds, lengths = {}, {}

  -- floor(a * b / c) for b < c, however large a * b is: 15 bits of a at a time.
  local function share(a, b, c)
    local p = a * b
    if p < 9007199254740992 then return (p - p % c) / c end
    local q, r, unit = 0, 0, 35184372088832
    while unit >= 1 do
      local digit = floor(a / unit) % 32768
      local t = r * 32768 + digit * b
      r = t % c
      q = q * 32768 + (t - r) / c
      unit = unit / 32768
    end
    return q
  end

  -- The cost of an event is behind the colon of its name; 1 is not written.
  local function cost_of(member)
    local c = match(member, ':(%d+)$')
    if c then return c + 0 end
    return 1
  end

  local function load_log(key, length)
    local s = { units = 0, expired = 0, last = 0, added = {} }
    local sum = call('ZSCORE', key, '#')
    if not sum then return s end
    s.found = true
    s.units = -sum
    local old = call('ZRANGEBYSCORE', key, 0, now)
    for i = 1, #old do s.units = s.units - cost_of(old[i]) end
    s.expired = #old
    local last = call('ZRANGE', key, -1, -1, 'WITHSCORES')
    s.last = last[2] + 0
    if s.last > now + length then
      -- The clock was set back: nobody waits for longer than a window.
      s.far, s.last = true, now + length
    end
    return s
  end

  -- When so many units have left, from now. It looks at as many events as that
  -- takes.
  local function leaving(key, length, units)
    local offset, page = 0, units < 8 and units or 64
    while true do
      local events = call('ZRANGEBYSCORE', key, format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', offset, page)
      for i = 1, #events, 2 do
        units = units - cost_of(events[i])
        if units <= 0 then return min(events[i + 1] - now, length) end
      end
      if #events < 2 * page then return length end -- the rest was added just now
      offset = offset + page
      page = 256
    end
  end

  local function load(k, kind, length)
    kinds[k], lengths[k] = kind, length
    local s = states[k]
    if not s then
      if kind == 0 then
        s = load_bucket(KEYS[k])
      elseif kind == 3 then
        s = load_log(KEYS[k], length)
      else
        s = load_window(KEYS[k], kind == 2, length)
      end
      states[k] = s
    end
    return s
  end

  local function fits(kind, s, price, most, size, mark, added)
    if kind == 0 then
      local ahead = ahead_of(s, price, most, size, mark)
      return price == 0 or ahead + added <= most and (added == 0 or added + price <= size)
    end
    if price == 0 then return true end
    local room = most - added - price - s.units
    if room < 0 then return false end
    if kind ~= 2 or s.before <= room then return true end
    -- What is left of this window is the part of the previous one that weighs.
    return s.stop - max(now, s.stop - size) <= share(size, room, s.before)
  end

  local function charge(k, kind, s, price, a)
    if kind == 0 then return charge_bucket(s, price, ARGV[a + 3] + 0, ARGV[a + 4]) end
    s.changed = true
    s.units = s.units + price
    if kind == 3 then
      local name = ARGV[a + 4]
      if price > 1 then name = name .. ':' .. ARGV[a + 1] end
      s.last = now + lengths[k]
      s.added[#s.added + 1] = s.last
      s.added[#s.added + 1] = name
    end
  end

  local function decide(first, last, times, answer)
    local granted, retry = 0, nil
    for _ = 1, times do
      local all, added = true, {}
      for a = first, last, 5 do
        local kind = ARGV[a] % 4
        local k, price, most, size = (ARGV[a] - kind) / 4, ARGV[a + 1] + 0, ARGV[a + 2] + 0, ARGV[a + 3] + 0
        local s = load(k, kind, size)
        if price > 0 then s.asked = true end
        local before = added[k] or 0
        if fits(kind, s, price, most, size, ARGV[a + 4], before) then
          added[k] = before + price
        else
          all = false
          local units = kind == 3 and s.units + before + price - most or 0
          if kind == 3 and units <= s.units then
            retry = retry or {}
            retry[a] = leaving(KEYS[k], size, units)
          end
        end
      end
      if not all then break end
      granted = granted + 1
      for a = first, last, 5 do
        local kind, price = ARGV[a] % 4, ARGV[a + 1] + 0
        local k = (ARGV[a] - kind) / 4
        if price > 0 then charge(k, kind, states[k], price, a) end
      end
    end
    n = n + 1
    answer[n] = granted
    for a = first, last, 5 do
      local kind = ARGV[a] % 4
      local k = (ARGV[a] - kind) / 4
      local s = states[k]
      if kind == 0 then
        answer[n + 1], answer[n + 2] = s.at - now, s.given
        n = n + 2
      elseif kind == 3 then
        local more, left = 0, 0
        if s.units > 0 then
          more = leaving(KEYS[k], lengths[k], max(0, s.units - ARGV[a + 2]) + 1)
          left = s.last - now
        end
        answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = s.units, left, more, retry and retry[a] or 0
        n = n + 4
      elseif kind == 2 then
        answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = s.stop, s.units, s.before, s.birth
        n = n + 4
      else
        answer[n + 1], answer[n + 2], answer[n + 3] = s.stop, s.units, s.birth
        n = n + 3
      end
    end
  end

  local function save_log(key, length, s)
    if s.units == 0 then
      call('DEL', key)
      return
    end
    if s.far then
      local far = call('ZRANGEBYSCORE', key, format('(%.0f', now + length), '+inf')
      for j = 1, #far do call('ZADD', key, now + length, far[j]) end
    end
    -- The first write is one that is denied when there is no memory.
    call('ZADD', key, -s.units, '#')
    for j = 1, #s.added, 2 do call('ZADD', key, s.added[j], s.added[j + 1]) end
    if s.expired > 0 then call('ZREMRANGEBYSCORE', key, 0, now) end
    call('PEXPIRE', key, max(1, ceil((s.last - now) / 1000)) + spare)
  end

  local function save(k, s, repair)
    local kind, key, length = kinds[k] or 0, KEYS[k], lengths[k]
    if kind == 0 then
      save_bucket(key, s)
    elseif kind == 3 then
      save_log(key, length, s)
    elseif s.changed or repair then
      save_window(key, kind == 2, length, s)
    end
  end

  return decide, save
end

-- Readings of a client's clock arrive out of order. Within a second, time does
-- not step back where somebody has charged already.
if client then
  local i = 2
  while i <= total do
    local charges = ARGV[i] % 1048576
    for a = i + 1, i + charges * 5, 5 do
      local kind, length = ARGV[a] % 4, ARGV[a + 3] + 0
      local k = (ARGV[a] - kind) / 4
      local seen
      if kind == 0 then
        states[k] = states[k] or load_bucket(KEYS[k])
        seen = states[k].seen
      elseif kind == 3 then
        local last = call('ZRANGE', KEYS[k], -1, -1, 'WITHSCORES')
        seen = last[2] and last[2] - length
      else
        seen = number(match(call('GET', KEYS[k]) or '', '^%d+')) - length
      end
      if seen and seen > now and seen - now <= 1000000 then now = seen end
    end
    i = i + 1 + charges * 5
  end
end

local answer = { now }
local decide, save
local i = 2
while i <= total do
  local charges, times = ARGV[i] + 0, 1
  if charges >= 1048576 then
    times = floor(charges / 1048576)
    charges = charges % 1048576
  end
  if charges == 1 and ARGV[i + 1] % 4 == 0 then
    decide_bucket(i + 1, times, answer)
  else
    if not decide then decide, save = make_rest() end
    decide(i + 1, i + charges * 5, times, answer)
  end
  i = i + 1 + charges * 5
end

-- What has changed is written, and where a charge was refused, a key that has
-- lost its time to live gets it back. Looks write nothing: they may be asked of
-- a replica.
for k = 1, #KEYS do
  local s = states[k]
  if s.asked then
    local repair = not s.changed and s.found and call('PTTL', KEYS[k]) == -1
    if s.changed or repair or s.moved or s.far or s.expired and s.expired > 0 then
      if save then save(k, s, repair) else save_bucket(KEYS[k], s) end
    end
  end
end
return answer
