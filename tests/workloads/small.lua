local t, s = {}, 0
for i = 1, 4000 do t[i] = { i, tostring(i * 7) } end
for i = 1, #t, 3 do t[i] = nil end
for _, v in pairs(t) do s = s + v[1] % 13 + #v[2] end
local parts = {}
for i = 1, 500 do parts[#parts + 1] = string.rep(string.char(97 + i % 26), i % 50) end
local text = table.concat(parts)
print(s, #text, (select(2, text:gsub("ab*", "x"))))
os.exit(6)
