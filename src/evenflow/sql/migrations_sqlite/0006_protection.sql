-- What the processes of a group share about the calls that its handler makes.

-- Its limit: when the next call is due if calls came at the exact rate (GCRA), in Unix time of this machine.
create table evenflow_limit (
    group_name text primary key,
    tat real not null
) without rowid;

-- Its breaker. `version` rises with every change: a change is a compare-and-set of it.
create table evenflow_breaker (
    group_name text primary key,
    state text not null,               -- closed | open | half-open
    since real not null,               -- when it was changed last
    until real not null,               -- open: when a probe may go; half-open: when the permit of the prober ends
    pause real not null,               -- seconds of the present pause
    passed integer not null,           -- probes in a row that have passed
    prober text,                       -- the process that has the permit
    permit integer not null,           -- rises with every permit, so that a late prober changes nothing
    reason text not null,
    version integer not null
) without rowid;
