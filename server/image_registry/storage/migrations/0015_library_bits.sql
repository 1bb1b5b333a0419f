-- Bitmaps as bit strings, which the database combines by itself (docs/decisions/0016-library-bitmaps.md). Workers make them
-- anew; until then searches do without. Another name, for no process may read the one as the other: bytes counted their
-- bits from the lowest, bit strings count theirs from the highest. No release knew the table that goes.
drop table library_bitmaps;

-- Bit n of a row, from the left, is the image with the id chunk * 16384 + n. The version '*' stands for any. A missing row
-- of a library and version that has others holds nothing.
create table library_bits (
    library text collate "C" not null,
    version text collate "C" not null,
    chunk bigint not null,
    bits bit(16384) storage plain not null,
    primary key (library, version, chunk)
);
update library_survey set after_library = '', rounds = 0;

-- For how long the bitmaps have lacked what is in the log.
alter table library_log add column logged_at timestamptz not null default now();
