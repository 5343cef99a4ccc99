-- Makes quotas whole. The arguments of each: its key's place in KEYS * 4 + the
-- kind of its state, as in decide.lua, and the length of its window.
--
-- A receipt from before must be worth nothing afterwards, so a bucket counts as
-- given back, and a window is born again.
local load_window, save_window
for a = 2, #ARGV, 2 do
  local kind = ARGV[a] % 4
  local key, length = KEYS[(ARGV[a] - kind) / 4], ARGV[a + 1] + 0
  if kind == 0 then
    local s = load_bucket(key)
    local back = s.at - now
    if back > 0 then
      s.at, s.turns = now, false
      s.given = min(s.given + back, 4503599627370495)
      save_bucket(key, s)
    end
  elseif kind == 3 then
    call('DEL', key)
  else
    if not load_window then load_window, save_window = make_windows() end
    local s = load_window(key, kind == 2, length)
    if s.found then
      s.units, s.before, s.birth = 0, 0, max(now, s.birth + 1)
      save_window(key, kind == 2, length, s)
    end
  end
end
return {}
