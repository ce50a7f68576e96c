-- The lua workload: tables, closures, string building, sorting. Argument: the size of the work.
local size = tonumber(arg[1])
local seed = 42
local function random(bound)
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed // 65536 % bound
end

local objects, sum = {}, 0
for i = 1, size * 100 do
    local slot = random(size * 5)
    local old = objects[slot]
    if old then sum = (sum + old.get(slot) + #old.name) % 1000000007 end
    local extra = random(100)
    objects[slot] = { name = "object" .. i, list = { i, extra, slot }, get = function(x) return x + extra + i end }
end

local lines = {}
for i = 1, size * 20 do
    local parts = {}
    for k = 1, 5 do parts[k] = string.format("%d:%s", random(1000), string.rep("x", random(20))) end
    lines[i] = table.concat(parts, ",")
end
table.sort(lines)
local text = table.concat(lines, "\n")
local counts = {}
for number in text:gmatch("%d+") do counts[number] = (counts[number] or 0) + 1 end
local replaced = text:gsub("x+", function(run) return #run end)
for number = 0, 999, 37 do print(number, counts[tostring(number)]) end
print(sum, #text, #replaced, lines[1], lines[#lines])
