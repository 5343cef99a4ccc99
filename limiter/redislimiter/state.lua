-- What the scripts have in common: this file stands in front of each of them.
--
-- Times are microseconds since the Unix epoch, and every number is an integer
-- below 2^53, which a Lua number holds exactly. Numbers are written by %.0f and
-- never by tostring, which keeps 14 digits.
--
-- A bucket is a string:
--
--   arrival  16 digits  when the quota is whole again
--   reach     3 digits  the arrival was at most 2^(reach/18) ahead when it was
--                       written: one that is further ahead now says that the
--                       clock has been set back, whatever the policy of the reader
--   't' or 'g' and given, only if callers may be waiting for turns or something
--             was given back: see bucket.go of package limiter
--   '@' and the time of writing, only if that was not the server's
--
-- Without the last parts it is a number of 19 digits, which Redis keeps in 16
-- bytes.
--
-- A fixed window is "end units birth", a sliding one "end units before birth".
-- birth tells apart the states that a key has had.
--
-- A sliding log is a sorted set of events by the time when they leave, each
-- named by its id and its cost; the score of '#' is minus the sum of their costs.
-- A number as it is in what was stored; what cannot be ours counts as nothing.
local function number(s)
  local n = s and tonumber(s)
  if n and n >= 0 and n < 9007199254740992 then return n end
  return 0
end

local function load_bucket(key)
  local v = call('GET', key)
  if not v then return { at = 0, given = 0, reach = '', found = false, changed = false, asked = false } end
  local s = {
    at = number(sub(v, 1, 16)), given = 0, reach = sub(v, 17, 19), found = true, changed = false, asked = false
  }
  if #v > 19 then
    s.turns = sub(v, 20, 20) == 't'
    s.given = number(match(v, '^%d+%a(%d+)'))
    s.seen = number(match(v, '@(%d+)$'))
  end
  return s
end

-- The key lives until the quota is whole, and would be so if nothing had been
-- given back.
local function save_bucket(key, s)
  local v
  if s.turns or s.given > 0 then
    v = format('%016.0f%s%s%.0f', s.at, s.reach, s.turns and 't' or 'g', s.given)
  else
    v = format('%016.0f%s', s.at, s.reach)
  end
  if client then v = format('%s@%.0f', v, now) end
  call('SET', key, v, 'PX', max(1, ceil((s.at - now + s.given) / 1000)) + spare)
end

-- What only windows and logs need is made when it is needed: making a function
-- takes time in every call.
local function make_windows()
  -- A window is read as it is now: its end is that of the window that is now.
  -- Time never steps back within a state by less than a window; where the clock
  -- was set back by more, the state is dropped.
  local function load(key, sliding, length)
    local s = { stop = now - now % length + length, units = 0, before = 0, birth = now }
    local v = call('GET', key)
    if not v then return s end
    s.found = true
    local stop, units, before, birth
    if sliding then
      stop, units, before, birth = match(v, '^(%d+) (%d+) (%d+) (%d+)$')
    else
      stop, units, birth = match(v, '^(%d+) (%d+) (%d+)$')
    end
    stop = number(stop)
    if stop == s.stop or stop == s.stop + length then
      s.stop, s.units, s.before, s.birth = stop, number(units), number(before), number(birth)
    elseif sliding and stop == s.stop - length then
      s.before, s.birth = number(units), number(birth)
    end
    return s
  end

  local function save(key, sliding, length, s)
    local left = s.stop - now
    local v
    if sliding then
      if s.units > 0 then left = left + length end
      v = format('%.0f %.0f %.0f %.0f', s.stop, s.units, s.before, s.birth)
    else
      v = format('%.0f %.0f %.0f', s.stop, s.units, s.birth)
    end
    call('SET', key, v, 'PX', max(1, ceil(left / 1000)) + spare)
  end

  return load, save
end
