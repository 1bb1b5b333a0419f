-- What a role needs to serve and to build: rows of these tables, and nothing that changes the schema, makes keys, or
-- alters what the audit log has. A test fails when a table is missing here.
grant usage on schema public to {role};
grant select on status_transitions, schema_migrations to {role};
grant select, update on registry, library_survey to {role};
grant select, insert, update, delete on images, image_libraries, job_logs, workers, library_bits to {role};
grant select, delete on library_log to {role};
grant select, insert, delete on create_requests to {role};
grant select, insert, update on jobs to {role};
grant select, update (last_used_at) on api_keys to {role};
grant insert on audit_log to {role};
-- api_key_changes: nothing; only who makes keys counts them.
