-- The oldest schema whose releases work on the schema of a step, too; null: those that know the step alone. A step says it
-- in a line of its own, `-- compatible from: 12`. Releases that know no such line refuse whatever is newer.
alter table schema_migrations add column compatible_from integer check (compatible_from < version);
