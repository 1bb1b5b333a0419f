-- The check of decision 0008, by index whatever the statistics said when a session planned it. A plan from the time when
-- the tables held a page each read all of `jobs` for each create, for as long as nobody had analysed them since.
-- One function for each table: a call less for each new row.
create or replace function check_image() returns trigger language plpgsql set enable_seqscan = off as $$
declare
    building boolean := (select status in (1, 2) from images where id = new.id);
    has_build boolean := exists (select from jobs where image_id = new.id and kind = 1 and status in (1, 2, 5, 7));
begin
    if building <> has_build then
        raise exception 'image %: building is %, an unfinished build is %', new.id, building, has_build
            using errcode = 'check_violation', constraint = 'building_has_job';
    end if;
    return null;
end $$;
create or replace function check_job() returns trigger language plpgsql set enable_seqscan = off as $$
declare
    building boolean := (select status in (1, 2) from images where id = new.image_id);
    has_build boolean := exists (select from jobs where image_id = new.image_id and kind = 1 and status in (1, 2, 5, 7));
begin
    if building <> has_build then
        raise exception 'image %: building is %, an unfinished build is %', new.image_id, building, has_build
            using errcode = 'check_violation', constraint = 'building_has_job';
    end if;
    return null;
end $$;
drop function check_build_of(bigint);
