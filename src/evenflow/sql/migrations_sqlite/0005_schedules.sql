-- What recurs: by a cron line, or every so many seconds. The process that leads moves `next_due` by compare-and-set in
-- the transaction that publishes the run, whose id derives from the time: so there is one run per time.
create table evenflow_schedule (
    name text primary key,
    group_name text not null,          -- what handles its runs
    topic text not null,
    type text not null,
    line text not null,                -- '' for an interval
    tz text not null,
    seconds real not null,             -- 0 for a line
    missed text not null,              -- one | all | none
    anchor real not null,              -- since when it has these times; what an interval counts from
    next_due real,                     -- null: there is no next time
    process text not null,             -- the process that said so last
    paused real,
    paused_by text,
    paused_why text,
    last_due real,
    last_run real,                     -- when a run was published last
    runs integer not null default 0
) without rowid;
