-- Aborts: drops the staging and lets go of the keys; where nothing is staged, shuts the id, so
-- that a prepare which is still on its way is refused.

local id, own, kept_seconds = take(), take(), tonumber(take())
local blob = redis.call('HGET', prepared, id)
if blob then
    local staged = cmsgpack.unpack(blob)
    redis.call('ZREM', shut, id) -- needs no memory, so the limit stops nothing from here on
    restore(staged)
    release(staged, own)
    redis.call('HDEL', prepared, id)
    return { 'done' }
elseif redis.call('ZSCORE', committed, id) then
    return { 'committed' }
end
redis.call('ZREMRANGEBYSCORE', shut, '-inf', now() - kept_seconds)
redis.call('ZADD', shut, now(), id)
return { 'done' }
