-- Counted up to the limit only; both have an index.
-- name: usage
select
    (select count(*) from (select from images where creator = %(creator)s and creator <> '' limit %(images)s) as i)
        as images,
    (select count(*) from (
        select from jobs where creator = %(creator)s and creator <> '' and kind = 1 and status in (1, 2, 5, 7)
        limit %(builds)s
    ) as j) as builds
