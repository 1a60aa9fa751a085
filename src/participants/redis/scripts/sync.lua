-- Writes something small, so that whoever waits for it to be on the disk waits for all before it.
-- Run alone, without the common part. What needs no memory comes first, so that the limit stops
-- nothing.

redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], redis.call('TIME')[1])
