-- Gives back what charges took, one after the other. The arguments of each:
--
--   its key's place in KEYS * 4 + the kind of its state, as in decide.lua
--   length  of the window; buckets have none
--   paid    what the charge took
--   until   where it left the state: the arrival; the end of the window in which
--           its units weigh last
--   given   bucket: what had been given back by then; window: the state's birth
--   name    of the event in a log
--
-- bucket.go, window.go and log.go of package limiter say why.
local load_window, save_window
for a = 2, #ARGV, 6 do
  local kind = ARGV[a] % 4
  local key, length = KEYS[(ARGV[a] - kind) / 4], ARGV[a + 1] + 0
  local paid, till, given = ARGV[a + 2] + 0, ARGV[a + 3] + 0, ARGV[a + 4] + 0
  if kind == 0 then
    local s = load_bucket(key)
    local ahead = s.at - now
    if not s.found then
      -- Whole.
    elseif s.turns and ahead > 0 then
      if s.at == till and s.given == given then
        s.at = s.at - min(paid, ahead)
        save_bucket(key, s)
      end
    else
      local back = min(paid, till - (s.given - given) - now)
      if back > 0 and s.given + back <= 4503599627370495 then
        s.at, s.given = s.at - back, s.given + back
        save_bucket(key, s)
      end
    end
  elseif kind == 3 then
    local name = ARGV[a + 5]
    if call('ZREM', key, name) == 1 then
      local left = call('ZINCRBY', key, paid, '#')
      if left + 0 >= 0 then call('DEL', key) end
    end
  else
    if not load_window then load_window, save_window = make_windows() end
    local sliding = kind == 2
    local s = load_window(key, sliding, length)
    if s.found and s.birth == given then
      local stop = sliding and s.stop + length or s.stop
      if till == stop then
        s.units = s.units - min(s.units, paid)
        save_window(key, sliding, length, s)
      elseif sliding and till == s.stop then
        s.before = s.before - min(s.before, paid)
        save_window(key, sliding, length, s)
      end
    end
  end
end
return {}
