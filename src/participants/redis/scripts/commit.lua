-- Commits: makes the staged writes, writes the marker, lets go of the keys, drops the staging.
--
-- If Redis refuses something in the middle, the staging still stands, and a repeated commit makes
-- the same writes again.

local id, own = take(), take()
local blob = redis.call('HGET', prepared, id)
if not blob then
    if redis.call('ZSCORE', committed, id) then
        return { 'done' }
    end
    return { redis.call('ZSCORE', shut, id) and 'shut' or 'never' }
end
local staged = cmsgpack.unpack(blob)
redis.call('ZREM', shut, id) -- needs no memory, so the limit stops nothing from here on
restore(staged)
for _, operation in ipairs(staged.writes) do
    local answer = write(operation)
    if type(answer) == 'table' and answer.err then
        return answer
    end
end
redis.call('ZADD', committed, now(), id)
release(staged, own)
redis.call('HDEL', prepared, id)
return { 'done' }
