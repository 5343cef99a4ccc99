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
-- The answer is the time, and for each question how often it was granted, and
-- for each of its charges the state after that:
--
--   bucket          how far ahead the arrival is, what was given back
--   fixed window    the end of the window, units, birth
--   sliding window  the end of the window, units, before, birth
--   log             units, when the last leaves, when more fit, when this would:
--                   in microseconds from now, 0 if it is no matter
local log = math.log
local states, kinds, lengths, asked = {}, {}, {}, {}
local answer = { now }

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

local function load_log(key, length)
  local s = { units = 0, expired = 0, last = 0, added = {} }
  local total = call('ZSCORE', key, '#')
  if not total then return s end
  s.found = true
  s.units = -total
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
local function leaving(key, s, length, units)
  local offset, page = 0, units < 8 and units or 64
  while true do
    local events = call('ZRANGEBYSCORE', key, format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', offset, page)
    for i = 1, #events, 2 do
      units = units - cost_of(events[i])
      if units <= 0 then return min(events[i + 1] - now, length) end
    end
    if #events < 2 * page then return length end
    offset = offset + page
    page = 256
  end
end

local function fits(kind, s, price, most, size, mark, added)
  if kind == 0 then
    local ahead = s.at - now
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
    if ahead < 0 then ahead = 0 end
    return price == 0 or ahead + added <= most and (added == 0 or added + price <= size)
  end
  if price == 0 then return true end
  local room = most - added - price - s.units
  if room < 0 then return false end
  if kind ~= 2 or s.before <= room then return true end
  -- What is left of this window is the part of the previous one that weighs.
  return s.stop - max(now, s.stop - size) <= share(size, room, s.before)
end

local i, n, total = 2, 1, #ARGV

-- Readings of a client's clock arrive out of order. Within a second, time does
-- not step back where somebody has charged already.
if client then
  local a = 2
  while a <= total do
    local charges = ARGV[a] % 1048576
    for b = a + 1, a + charges * 5, 5 do
      if ARGV[b] % 4 == 0 then
        local k = ARGV[b] / 4
        states[k] = states[k] or load_bucket(KEYS[k])
        kinds[k] = 0
        local seen = states[k].seen
        if seen and seen > now and seen - now <= 1000000 then now = seen end
      end
    end
    a = a + 1 + charges * 5
  end
  answer[1] = now
end

while i <= total do
  local charges, times = ARGV[i] + 0, 1
  if charges >= 1048576 then
    times = floor(charges / 1048576)
    charges = charges % 1048576
  end
  local first, last = i + 1, i + charges * 5
  i = last + 1
  for a = first, last, 5 do
    local kind = ARGV[a] % 4
    local k = (ARGV[a] - kind) / 4
    if not states[k] then
      kinds[k], lengths[k] = kind, ARGV[a + 3] + 0
      if kind == 0 then
        states[k] = load_bucket(KEYS[k])
      elseif kind == 3 then
        states[k] = load_log(KEYS[k], lengths[k])
      else
        states[k] = load_window(KEYS[k], kind == 2, lengths[k])
      end
    end
    if ARGV[a + 1] ~= '0' then asked[k] = true end
  end
  local granted, retry = 0, nil
  for _ = 1, times do
    local all, added = true, charges > 1 and {} or nil
    for a = first, last, 5 do
      local kind = ARGV[a] % 4
      local k = (ARGV[a] - kind) / 4
      local s, price = states[k], ARGV[a + 1] + 0
      local before = added and added[k] or 0
      if fits(kind, s, price, ARGV[a + 2] + 0, ARGV[a + 3] + 0, ARGV[a + 4], before) then
        if added then added[k] = before + price end
      else
        all = false
        if kind == 3 then
          local units = s.units + before + price - ARGV[a + 2]
          retry = retry or {}
          if units <= s.units then retry[a] = leaving(KEYS[k], s, lengths[k], units) end
        end
      end
    end
    if not all then break end
    granted = granted + 1
    for a = first, last, 5 do
      local price = ARGV[a + 1] + 0
      if price > 0 then
        local kind = ARGV[a] % 4
        local k = (ARGV[a] - kind) / 4
        local s = states[k]
        s.changed = true
        if kind == 0 then
          if s.given <= now - s.at then s.given = 0 end
          if s.at <= now then s.at, s.turns = now, false end
          s.at = s.at + price
          local mark = ARGV[a + 4]
          if #mark > 3 then
            -- Who waits may be ready to wait for ever: what counts is the turn.
            s.turns = true
            mark = format('%03.0f', ceil(18 * log(max(s.at - now, ARGV[a + 3] + 0, 1)) / log(2) + 0.001))
          end
          s.reach = mark
        else
          s.units = s.units + price
          if kind == 3 then
            local name = ARGV[a + 4]
            if price > 1 then name = name .. ':' .. ARGV[a + 1] end
            s.last = now + lengths[k]
            s.added[#s.added + 1] = s.last
            s.added[#s.added + 1] = name
          end
        end
      end
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
      local more = 0
      if s.units > 0 then more = leaving(KEYS[k], s, lengths[k], max(0, s.units - ARGV[a + 2]) + 1) end
      answer[n + 1], answer[n + 2] = s.units, s.units > 0 and s.last - now or 0
      answer[n + 3], answer[n + 4] = more, retry and retry[a] or 0
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

-- What has changed is written, and where a charge was refused, a key that has
-- lost its time to live gets it back. Looks write nothing: they may be asked of
-- a replica.
for k, s in pairs(states) do
  local key = KEYS[k]
  if asked[k] then
    local repair = not s.changed and s.found and call('PTTL', key) == -1
    local kind, length = kinds[k], lengths[k]
    if kind == 0 then
      if s.changed or s.moved or repair then save_bucket(key, s) end
    elseif kind ~= 3 then
      if s.changed or repair then save_window(key, kind == 2, length, s) end
    elseif s.changed or repair or s.expired > 0 or s.far then
      local add = s.added
      if s.far then
        local far = call('ZRANGEBYSCORE', key, format('(%.0f', now + length), '+inf')
        for j = 1, #far do
          call('ZADD', key, now + length, far[j])
        end
      end
      if s.units == 0 then
        call('DEL', key)
      else
        call('ZADD', key, -s.units, '#')
        for j = 1, #add, 2 do call('ZADD', key, add[j], add[j + 1]) end
        if s.expired > 0 then call('ZREMRANGEBYSCORE', key, 0, now) end
        call('PEXPIRE', key, max(1, ceil((s.last - now) / 1000)))
      end
    end
  end
end
return answer
