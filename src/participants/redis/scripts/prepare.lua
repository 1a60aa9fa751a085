-- Prepares: judges fencing tokens, keys and checks; then stages the writes and takes the keys.
--
-- A key that is checked and would expire is kept from it until the end, which gives its time back.

local id, own = take(), take()
if redis.call('HEXISTS', prepared, id) == 1 then
    return { 'prepared' }
elseif redis.call('ZSCORE', committed, id) then
    return { 'committed' }
elseif redis.call('ZSCORE', shut, id) then
    return { 'shut' }
end

-- Tokens have twenty digits, so that their order is that of texts; a number here has 53 bits.
local fences, shown = {}, {}
for place = 1, tonumber(take()) do
    local fence = { resource = take(), mode = take(), token = take(), against = take() }
    fences[place] = fence
    shown[fence.resource .. '\0' .. fence.mode .. '\0' .. fence.token] = true
end
local function is_own(resource, mode, token)
    return shown[resource .. '\0' .. mode .. '\0' .. token]
end
for place, fence in ipairs(fences) do
    for mode in string.gmatch(fence.against, '[^,]+') do
        local token = redis.call('HGET', tokens, mode .. ':' .. fence.resource)
        if token and token > fence.token and not is_own(fence.resource, mode, token) then
            return { 'late', tostring(place), mode, token }
        end
    end
end
for _, fence in ipairs(fences) do
    local places = cmsgpack.unpack(redis.call('HGET', standing, fence.resource) or '\144')
    for _, other in ipairs(places) do
        local against = ',' .. fence.against .. ','
        local conflicts = string.find(against, ',' .. other.mode .. ',', 1, true)
        if conflicts and not is_own(fence.resource, other.mode, other.token) then
            return { 'stands', fence.resource, other.mode, other.token, id_of(other.holder) }
        end
    end
end

local operations = take_operations()
local planned, last, order, keys, seen, kept = {}, {}, {}, {}, {}, {}
for place, operation in ipairs(operations) do
    local key = operation.key
    local holder = holder_of(key)
    if holder then
        return { 'held', tostring(place), holder }
    elseif is_forbidden(operation) then
        return { 'forbidden', tostring(place) }
    end
    if not seen[key] then
        seen[key] = true
        keys[#keys + 1] = key
    end
    if is_write(operation) then
        planned[key] = operation.kind == 'put' and operation.argument
        if not last[key] then
            order[#order + 1] = key
        end
        last[key] = operation
    else
        local kind = failed_check(operation, planned[key])
        if kind then
            return { 'check', tostring(place), kind }
        end
        if planned[key] == nil then
            local left = redis.call('PTTL', key)
            if left >= 0 then
                kept[key] = left
            end
        end
    end
end

-- From here on it writes. The first command is one that a full server refuses.
local function raise_tokens()
    for _, fence in ipairs(fences) do
        local field = fence.mode .. ':' .. fence.resource
        local token = redis.call('HGET', tokens, field)
        if not token or token < fence.token then
            redis.call('HSET', tokens, field, fence.token)
        end
    end
end
if #order == 0 then
    raise_tokens()
    return { 'read_only' }
end

local staged = { writes = {}, keys = keys, resources = {}, kept = {} }
for place, key in ipairs(order) do
    staged.writes[place] = last[key]
end
local time = redis.call('TIME')
local milliseconds = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for key, left in pairs(kept) do
    local at = string.format('%.0f', milliseconds + left)
    staged.kept[#staged.kept + 1] = { key = key, at = at }
end
local places = {}
for _, fence in ipairs(fences) do
    if not places[fence.resource] then
        places[fence.resource] = cmsgpack.unpack(
            redis.call('HGET', standing, fence.resource) or '\144')
        staged.resources[#staged.resources + 1] = fence.resource
    end
    local there = places[fence.resource]
    there[#there + 1] = { mode = fence.mode, token = fence.token, holder = own }
end
redis.call('HSET', prepared, id, cmsgpack.pack(staged))
for _, key in ipairs(keys) do
    redis.call('HSET', held, key, own)
end
for resource, there in pairs(places) do
    redis.call('HSET', standing, resource, cmsgpack.pack(there))
end
raise_tokens()
for key in pairs(kept) do
    redis.call('PERSIST', key)
end
return { 'commit' }
