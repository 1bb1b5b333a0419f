-- What stands in angle brackets is filled in by `image_pages.py`, with text from here.

-- Images as a page shows them. Those beyond its bytes come without definition, but never the first.
-- name: page
select p.name, p.status,
    case when p.bytes <= %(bytes)s or p.bytes = octet_length(p.definition) then p.definition end as definition
from (
    select i.name, i.status, i.definition,
        sum(octet_length(i.definition)) over (order by i.name rows unbounded preceding) as bytes
    from <images>
) p order by p.name

-- The same in a row, off the index of names: how many, of each image id, status and key of the definition, one behind the
-- other, and the last name on the page. An image without such a key, written last before there were any, is missing there.
-- name: outline
select count(*), string_agg(int8send(i.id) || int2send(i.status) || i.definition_key, '' order by i.name),
    (array_agg(i.name order by i.name))[%(size)s]
from <images>

-- Their definitions, in whatever order.
-- name: definitions
select i.definition_key, i.definition from <images> where i.definition_key is not null

-- name: some_images
(select definition, definition_key from images where id = any (%(ids)s::bigint[])) i

-- name: all_images
(select id, name, status, definition, definition_key from images where name > %(after)s order by name limit %(limit)s) i

-- name: named_images
(<names>) n join images i on i.name = n.image_name

-- The names that meet a condition, in order.
-- name: list
select l.image_name from image_libraries l where <condition> and l.image_name > %(after)s
order by l.image_name limit %(<limit>)s

-- name: reaches
select <reaches>, t.together, t.rarest, t.chunks from (<together>) t

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

-- Those of some images behind the position, in order.
-- name: of_ids
select i.name as image_name from images i where i.id = any (%(ids)s::bigint[]) and i.name > %(after)s order by i.name

-- Those that are in all lists, by whatever join the planner likes best.
-- name: joined
select image_name from <lists> order by image_name limit %(limit)s

-- name: whole_list
(select l.image_name from image_libraries l where <condition> and l.image_name > %(after)s) l<number>
