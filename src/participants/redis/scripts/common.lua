-- What the scripts of the Redis store share: names, arguments in order, holders of keys, checks.
--
-- Put in front of each of them. Their words come from `participants/redis`. Invariants: one script
-- is one step, nothing of anybody's comes between; Redis does not roll back, so everything that
-- may be refused is looked at before the first write; once a command that needs no memory has
-- written, the server's memory limit does not stop a script any more, which is how endings get
-- through.

local prepared, committed, shut, held, tokens, standing, steps, stepped = unpack(KEYS)

local next_argument = 0
local function take()
    next_argument = next_argument + 1
    return ARGV[next_argument]
end

local function now()
    return tonumber(redis.call('TIME')[1])
end

-- The id in a holder's text, which goes on with the journal and the store.
local function id_of(holder)
    return string.sub(holder, 1, (string.find(holder, '\0', 1, true) or 0) - 1)
end

-- The id of the transaction that is prepared on a key, if there is one.
local function holder_of(key)
    local holder = redis.call('HGET', held, key)
    return holder and id_of(holder)
end

local function take_operations()
    local operations = {}
    for place = 1, tonumber(take()) do
        operations[place] = { kind = take(), key = take(), argument = take(), ttl = take() }
    end
    return operations
end

local function is_write(operation)
    return operation.kind == 'put' or operation.kind == 'delete'
end

-- The kind of value that a key has, 'none' for none.
local function type_of(key)
    return redis.call('TYPE', key).ok
end

-- Nothing if a check holds for what a key has, otherwise the kind of value that is there. `planned`
-- is what earlier operations make of it: false for nothing, nil where they leave it alone.
local function failed_check(operation, planned)
    local kind = planned == nil and type_of(operation.key) or planned and 'string' or 'none'
    if operation.kind == 'exists' then
        return (operation.argument == '1') ~= (kind ~= 'none') and kind or nil
    end
    if kind ~= 'string' then
        return kind
    end
    local value = planned or redis.call('GET', operation.key)
    return value ~= operation.argument and kind or nil
end

-- Whether the server forbids us to write a key, as far as it can tell before it is tried.
local function is_forbidden(operation)
    if not is_write(operation) or not redis.acl_check_cmd then
        return false
    end
    if operation.kind == 'put' then
        return not redis.acl_check_cmd('SET', operation.key, '')
    end
    return not redis.acl_check_cmd('DEL', operation.key)
end

local function write(operation)
    if operation.kind == 'delete' then
        return redis.pcall('DEL', operation.key)
    elseif operation.ttl ~= '' then
        return redis.pcall('SET', operation.key, operation.argument, 'PX', operation.ttl)
    end
    return redis.pcall('SET', operation.key, operation.argument)
end

-- Lets go of the keys and of the locks' places that a prepared transaction had.
local function release(staged, holder)
    for _, key in ipairs(staged.keys) do
        if redis.call('HGET', held, key) == holder then
            redis.call('HDEL', held, key)
        end
    end
    for _, resource in ipairs(staged.resources) do
        local left = {}
        for _, place in ipairs(cmsgpack.unpack(redis.call('HGET', standing, resource) or '\144')) do
            if place.holder ~= holder then
                left[#left + 1] = place
            end
        end
        if #left > 0 then
            redis.call('HSET', standing, resource, cmsgpack.pack(left))
        else
            redis.call('HDEL', standing, resource)
        end
    end
end

-- Gives keys that were held from expiring their time back.
local function restore(staged)
    for _, kept in ipairs(staged.kept) do
        redis.call('PEXPIREAT', kept.key, kept.at)
    end
end
