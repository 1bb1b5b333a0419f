-- The trace of the call that launched a job (W3C Trace Context), so that the work on it is seen as a part of it.
alter table jobs add column traceparent text not null default '';
