-- What stands in angle brackets is filled in by `image_pages.py`, with text from here.

-- A page of the images that `names` names.
-- name: page
select * from (
    select p.*, count(*) over () as candidates,
        sum(octet_length(p.definition)) over (order by p.name rows unbounded preceding) as bytes,
        row_number() over (order by p.name) as place
    from (
        select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition
        from (<names>) n join images i on i.name = n.image_name
    ) p
) q where q.bytes <= %(bytes)s or q.place = 1 order by q.name

-- name: all_names
select name as image_name from images where name > %(after)s order by name limit %(limit)s

-- The names that meet a condition, in order.
-- name: list
select l.image_name from image_libraries l where <condition> and l.image_name > %(after)s
order by l.image_name limit %(<limit>)s

-- How far one gets with a sample of the names that meet a condition; null: to the end.
-- name: reach
(
    select l.image_name from image_libraries l where <condition> and l.image_name > %(after)s
    order by l.image_name offset %(sample)s limit 1
) as reach<number>

-- Those of a list that meet the other conditions, each name looked up.
-- name: looked_up
select w.image_name from (<walked>) w where <lookups> order by w.image_name limit %(limit)s

-- `offset 0` keeps a look-up what it is: without it the planner may make a join of it.
-- name: lookup
exists (select from image_libraries l where l.image_name = w.image_name and <condition> offset 0)

-- Those that are in all lists, by whatever join the planner likes best.
-- name: joined
select image_name from <lists> order by image_name limit %(limit)s

-- name: whole_list
(select l.image_name from image_libraries l where <condition> and l.image_name > %(after)s) l<number>
