-- A step: one operation at once, with its row of the barrier, if the rows are as its asker thinks.
--
-- The rules of the rows are `barrier.rs`'s: it says which rows it judged, and what to write.

local done_field, undone_field = take(), take()
local done = redis.call('HGET', steps, done_field)
local undone = redis.call('HGET', steps, undone_field)
local is_done, is_undone = done and '1' or '0', undone and '1' or '0'
local thinks_done, thinks_undone = take(), take()
if is_done ~= thinks_done or is_undone ~= thinks_undone then
    return { 'rows', is_done, done or '', is_undone, undone or '' }
end

local kept_seconds, purged_max, is_undoing = tonumber(take()), take(), take() == '1'
local operation = take_operations()[1]
local existed = false
if operation then
    local holder = holder_of(operation.key)
    if holder then
        return { 'held', holder }
    elseif is_forbidden(operation) then
        return { 'forbidden' }
    elseif not is_write(operation) then
        local kind = failed_check(operation, nil)
        if kind then
            return { 'check', kind }
        end
    end
    existed = redis.call('EXISTS', operation.key) == 1
end

if is_undoing then
    redis.call('ZREM', stepped, '') -- needs no memory, so the limit does not stop an undoing
end
local fields = {}
for place = 1, tonumber(take()) do
    local field, if_absent, if_existed = take(), take(), take()
    redis.call('HSET', steps, field, existed and if_existed or if_absent)
    fields[place] = field
end
if operation and is_write(operation) then
    local answer = write(operation)
    if type(answer) == 'table' and answer.err then
        redis.call('HDEL', steps, unpack(fields))
        return answer
    end
end
for _, field in ipairs(fields) do
    redis.call('ZADD', stepped, now(), field)
end
local old = redis.call(
    'ZRANGEBYSCORE', stepped, '-inf', now() - kept_seconds, 'LIMIT', 0, purged_max)
for _, field in ipairs(old) do
    redis.call('HDEL', steps, field)
    redis.call('ZREM', stepped, field)
end
return { 'done', existed and '1' or '0' }
