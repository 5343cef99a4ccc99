-- The quick way through decide.lua, with the same arguments and answers: each
-- question is about one bucket, another one each, and nothing about their states
-- is unusual. Then nothing needs to be remembered of one question for the next,
-- and most calls are such. It has written nothing when it finds that it is not
-- so, and the rest of the script decides.
--
-- %d is quicker than %.0f, and right where a C long has 64 bits.
if not client and #ARGV == 6 * #KEYS + 1 and format('%d', 2 ^ 52) == '4503599627370496' then
  local answer, n, a = { now }, 1, 2
  local p, m, z, price, most, size
  for k = 1, #KEYS do
    local asked = ARGV[a]
    if ARGV[a + 2] ~= p or ARGV[a + 3] ~= m or ARGV[a + 4] ~= z then
      -- Another policy than before: reading numbers takes time.
      p, m, z = ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
      price, most, size = p + 0, m + 0, z + 0
    end
    local times = asked == '1' and 1 or (asked - 1) / 1048576
    if times % 1 > 0 or ARGV[a + 1] - 4 * k ~= 0 or price == 0 or #ARGV[a + 5] ~= 3 then
      answer = nil
      break
    end
    local key, ahead, granted = KEYS[k], 0, 0
    local v = call('GET', key)
    if v then
      local at = #v == 19 and tonumber(sub(v, 1, 16))
      if not at or at - now > size then
        answer = nil
        break
      end
      if at > now then ahead = at - now end
    end
    if ahead <= most then
      granted = times == 1 and 1 or min(times, floor((most - ahead) / price) + 1)
    elseif v and call('PTTL', key) == -1 then
      answer = nil
      break
    end
    answer[n + 1], answer[n + 2], answer[n + 3] = granted, ahead + granted * price, 0
    n = n + 3
    a = a + 6
  end
  if answer then
    n = 2
    for k = 1, #KEYS do
      if answer[n] > 0 then
        local ahead = answer[n + 1]
        call('SET', KEYS[k], format('%016d%s', now + ahead, ARGV[6 * k + 1]), 'PX', format('%d', ceil(ahead / 1000)))
      end
      n = n + 3
    end
    return answer
  end
end
