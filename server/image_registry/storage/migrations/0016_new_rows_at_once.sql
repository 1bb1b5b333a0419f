-- compatible from: 15
-- "An image that is being built has its build, and the other way round" is judged once for all rows that a statement
-- adds, at its end, and no longer for each of them at the commit: image and first build are written by one statement, and
-- many of them by one (docs/decisions/0008-rules-in-the-database.md). Changes are still judged at the commit.
drop trigger new_image_has_build on images;
drop trigger new_build_has_image on jobs;

-- `limit 1` keeps the planner from reading all unfinished builds for it.
create function check_new_images() returns trigger language plpgsql set enable_seqscan = off as $$
declare
    wrong record;
begin
    select added.id, added.status in (1, 2) as building, build.found is not null as has_build into wrong
    from added left join lateral (
        select true as found from jobs where image_id = added.id and kind = 1 and status in (1, 2, 5, 7) limit 1
    ) build on true
    where (added.status in (1, 2)) <> (build.found is not null) limit 1;
    if found then
        raise exception 'image %: building is %, an unfinished build is %', wrong.id, wrong.building, wrong.has_build
            using errcode = 'check_violation', constraint = 'building_has_job';
    end if;
    return null;
end $$;
create trigger new_images_have_builds after insert on images referencing new table as added
    for each statement execute function check_new_images();

create function check_new_jobs() returns trigger language plpgsql set enable_seqscan = off as $$
declare
    wrong record;
begin
    select image.id, image.building, build.found is not null as has_build into wrong
    from added, lateral (
        select id, status in (1, 2) as building from images where id = added.image_id limit 1
    ) image left join lateral (
        select true as found from jobs where image_id = image.id and kind = 1 and status in (1, 2, 5, 7) limit 1
    ) build on true
    where added.kind = 1 and image.building <> (build.found is not null) limit 1;
    if found then
        raise exception 'image %: building is %, an unfinished build is %', wrong.id, wrong.building, wrong.has_build
            using errcode = 'check_violation', constraint = 'building_has_job';
    end if;
    return null;
end $$;
create trigger new_builds_have_images after insert on jobs referencing new table as added
    for each statement execute function check_new_jobs();
