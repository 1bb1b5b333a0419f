-- The digest of the base image that the last good build stands on ('': not known).
alter table images add column base_digest text not null default '';
