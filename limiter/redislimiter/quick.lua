-- The quick way through decide.lua, with the same arguments and answers: each
-- question is about one bucket, another one each, and nothing about their states
-- is unusual. Then nothing needs to be remembered of one question for the next,
-- and most calls are such. It has written nothing when it finds that it is not
-- so, and the rest of the script decides.
--
-- %d is quicker than %.0f, and right where a C long has 64 bits.
if not client and format('%d', 2 ^ 52) == '4503599627370496' then
  local answer, values = { now }, {}
  local n, a, last = 1, 2, #ARGV
  local price, most, size, mark
  for k = 1, #KEYS do
    local times = 1
    if ARGV[a] == '0' then
      a = a + 1
    else
      times = ARGV[a] == '1' and 1 or (ARGV[a] - 1) / 1048576
      if times % 1 > 0 or ARGV[a + 1] - 4 * k ~= 0 then break end
      price, most, size, mark = ARGV[a + 2] + 0, ARGV[a + 3] + 0, ARGV[a + 4] + 0, ARGV[a + 5]
      if price == 0 or #mark ~= 3 then break end
      a = a + 6
    end
    local key, ahead, granted = KEYS[k], 0, 0
    local v = call('GET', key)
    if v then
      local at = #v == 19 and tonumber(sub(v, 1, 16))
      if not at or at - now > size then break end
      if at > now then ahead = at - now end
    end
    if ahead <= most then
      granted = times == 1 and 1 or min(times, floor((most - ahead) / price) + 1)
      ahead = ahead + granted * price
      values[k] = format('%016d%s', now + ahead, mark)
    else
      if v and call('PTTL', key) == -1 then break end
      values[k] = false
    end
    answer[n + 1], answer[n + 2], answer[n + 3] = granted, ahead, 0
    n = n + 3
  end
  if a == last + 1 and #values == #KEYS then
    n = 3
    for k = 1, #KEYS do
      if values[k] then call('SET', KEYS[k], values[k], 'PX', format('%d', ceil(answer[n] / 1000))) end
      n = n + 3
    end
    return answer
  end
end

-- The rest of the script wants every question in full.
do
  local a, last = 2, #ARGV
  while a <= last and ARGV[a] ~= '0' do a = a + 1 + ARGV[a] % 1048576 * 5 end
  if a <= last then
    local full, n, place = {}, 1, 0
    full[1], a = ARGV[1], 2
    while a <= last do
      if ARGV[a] == '0' then
        place = place + 4
        full[n + 1], full[n + 2] = '1', place
        for i = n + 3, n + 6 do full[i] = full[i - 6] end
        n, a = n + 6, a + 1
      else
        local next = a + 1 + ARGV[a] % 1048576 * 5
        for i = a, next - 1 do
          n = n + 1
          full[n] = ARGV[i]
        end
        place, a = ARGV[next - 5] + 0, next
      end
    end
    ARGV = full
  end
end

