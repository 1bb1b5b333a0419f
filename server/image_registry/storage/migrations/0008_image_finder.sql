-- Finds the best image that holds a set of libraries: the one with the fewest others.
-- Images whose last build is older than this are found by extras and system packages after their next build.
alter table images add column library_count integer not null default 0;
update images i set library_count = c.count
from (select image_name, count(*) from image_libraries group by image_name) c where c.image_name = i.name;
create index images_best on images (library_count, updated_at desc, name) include (python_version) where status = 3;

comment on table image_libraries is 'what images can be found by (storage/findable.py): libraries, extras that were '
    'asked for (`uvicorn[standard]`, with the version of uvicorn), system packages that were asked for (`apt:git`)';
