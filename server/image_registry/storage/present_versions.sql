-- Parts that statements of several files hold in common.

-- The distinct versions of the library of `k`, read off the index one by one: there are few, however many images hold them.
-- part: present_versions
with recursive found as (
    (select l.version from image_libraries l where l.library = k.library order by l.version limit 1)
    union all
    select (
        select l.version from image_libraries l
        where l.library = k.library and l.version > found.version order by l.version limit 1
    ) from found where found.version is not null
)
select version from found where version is not null
