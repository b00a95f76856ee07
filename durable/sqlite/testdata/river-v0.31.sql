CREATE TABLE river_queue (
    name text PRIMARY KEY NOT NULL,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    metadata blob NOT NULL DEFAULT (json('{}')),
    paused_at timestamp,
    updated_at timestamp NOT NULL
);
CREATE TABLE river_leader (
    elected_at timestamp NOT NULL,
    expires_at timestamp NOT NULL,
    leader_id text NOT NULL,
    name text PRIMARY KEY NOT NULL DEFAULT 'default' CHECK (name = 'default'),
    CONSTRAINT name_length CHECK (length(name) > 0 AND length(name) < 128),
    CONSTRAINT leader_id_length CHECK (length(leader_id) > 0 AND length(leader_id) < 128)
);
CREATE TABLE river_migration (
    line text NOT NULL,
    version integer NOT NULL,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT line_length CHECK (length(line) > 0 AND length(line) < 128),
    CONSTRAINT version_gte_1 CHECK (version >= 1),
    PRIMARY KEY (line, version)
);
CREATE TABLE river_client (
    id text PRIMARY KEY NOT NULL,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    metadata blob NOT NULL DEFAULT (json('{}')),
    paused_at timestamp,
    updated_at timestamp NOT NULL,
    CONSTRAINT name_length CHECK (length(id) > 0 AND length(id) < 128)
);
CREATE TABLE river_client_queue (
    river_client_id text NOT NULL REFERENCES river_client (id) ON DELETE CASCADE,
    name text NOT NULL,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    max_workers integer NOT NULL DEFAULT 0,
    metadata blob NOT NULL DEFAULT (json('{}')),
    num_jobs_completed integer NOT NULL DEFAULT 0,
    num_jobs_running integer NOT NULL DEFAULT 0,
    updated_at timestamp NOT NULL,
    PRIMARY KEY (river_client_id, name),
    CONSTRAINT name_length CHECK (length(name) > 0 AND length(name) < 128),
    CONSTRAINT num_jobs_completed_zero_or_positive CHECK (num_jobs_completed >= 0),
    CONSTRAINT num_jobs_running_zero_or_positive CHECK (num_jobs_running >= 0)
);
CREATE TABLE river_job (
    id integer PRIMARY KEY, -- SQLite makes this autoincrementing automatically
    args blob NOT NULL DEFAULT '{}',
    attempt integer NOT NULL DEFAULT 0,
    attempted_at timestamp,
    attempted_by blob, -- json
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    errors blob, -- json
    finalized_at timestamp,
    kind text NOT NULL,
    max_attempts integer NOT NULL,
    metadata blob NOT NULL DEFAULT (json('{}')),
    priority integer NOT NULL DEFAULT 1,
    queue text NOT NULL DEFAULT 'default',
    state text NOT NULL DEFAULT 'available',
    scheduled_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    tags blob NOT NULL DEFAULT (json('[]')),
    unique_key blob,
    unique_states integer,
    CONSTRAINT finalized_or_finalized_at_null CHECK (
        (finalized_at IS NULL AND state NOT IN ('cancelled', 'completed', 'discarded')) OR
        (finalized_at IS NOT NULL AND state IN ('cancelled', 'completed', 'discarded'))
    ),
    CONSTRAINT priority_in_range CHECK (priority >= 1 AND priority <= 4),
    CONSTRAINT queue_length CHECK (length(queue) > 0 AND length(queue) < 128),
    CONSTRAINT kind_length CHECK (length(kind) > 0 AND length(kind) < 128),
    CONSTRAINT state_valid CHECK (state IN ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled'))
);
CREATE TABLE tether_worker (id TEXT PRIMARY KEY NOT NULL, since REAL NOT NULL, seen REAL NOT NULL);
CREATE INDEX river_job_kind ON river_job (kind);
CREATE INDEX river_job_state_and_finalized_at_index ON river_job (state, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX river_job_prioritized_fetching_index ON river_job (state, queue, priority, scheduled_at, id);
CREATE UNIQUE INDEX river_job_unique_idx ON river_job (unique_key)
    WHERE unique_key IS NOT NULL
        AND unique_states IS NOT NULL
        AND CASE state
            WHEN 'available' THEN unique_states & (1 << 0)
            WHEN 'cancelled' THEN unique_states & (1 << 1)
            WHEN 'completed' THEN unique_states & (1 << 2)
            WHEN 'discarded' THEN unique_states & (1 << 3)
            WHEN 'pending'   THEN unique_states & (1 << 4)
            WHEN 'retryable' THEN unique_states & (1 << 5)
            WHEN 'running'   THEN unique_states & (1 << 6)
            WHEN 'scheduled' THEN unique_states & (1 << 7)
            ELSE 0
        END >= 1;
INSERT INTO river_queue (name, created_at, metadata, paused_at, updated_at) VALUES ('tether', '2026-11-30 04:14:34.632', '{}', NULL, '2026-11-30 04:14:34.632');
INSERT INTO river_leader (elected_at, expires_at, leader_id, name) VALUES ('2026-11-30 04:14:34.620', '2026-11-30 04:14:49.620', 'tether-MDGBNOYA3JWBMTHCFLH4J7ANF3', 'default');
INSERT INTO river_migration (line, version, created_at) VALUES ('main', 1, '2026-11-30 04:14:34');
INSERT INTO river_migration (line, version, created_at) VALUES ('main', 2, '2026-11-30 04:14:34');
INSERT INTO river_migration (line, version, created_at) VALUES ('main', 3, '2026-11-30 04:14:34');
INSERT INTO river_migration (line, version, created_at) VALUES ('main', 4, '2026-11-30 04:14:34');
INSERT INTO river_migration (line, version, created_at) VALUES ('main', 5, '2026-11-30 04:14:34');
INSERT INTO river_migration (line, version, created_at) VALUES ('main', 6, '2026-11-30 04:14:34');
INSERT INTO river_job (id, args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue, state, scheduled_at, tags, unique_key, unique_states) VALUES (1, X'7B226964223A2272756E6E696E67222C226E616D65223A226A6F62222C2261726773223A6E756C6C7D', 1, '2026-11-30 04:14:34.637', '["tether-MDGBNOYA3JWBMTHCFLH4J7ANF3"]', '2026-11-30 04:14:34.585', NULL, NULL, 'tether', 32767, '{"job":"job","river:unique_nonce":"a88970950bd75c24"}', 1, 'tether', 'running', '2026-11-30 04:14:34.585', '[]', NULL, NULL);
INSERT INTO river_job (id, args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue, state, scheduled_at, tags, unique_key, unique_states) VALUES (2, X'7B226964223A2277616974696E67222C226E616D65223A226A6F62222C2261726773223A6E756C6C7D', 0, NULL, NULL, '2026-11-30 04:14:34.642', NULL, NULL, 'tether', 32767, '{"job":"job","river:unique_nonce":"e8444d7e831f4e8d"}', 1, 'tether', 'available', '2026-11-30 04:14:34.642', '[]', NULL, NULL);
INSERT INTO river_job (id, args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue, state, scheduled_at, tags, unique_key, unique_states) VALUES (3, X'7B226964223A22756E69717565222C226E616D65223A226A6F62222C2261726773223A6E756C6C2C22756E69717565223A226B6579227D', 0, NULL, NULL, '2026-11-30 04:14:34.644', NULL, NULL, 'tether', 32767, '{"job":"job","river:unique_nonce":"21bf628d0bdea221"}', 1, 'tether', 'available', '2026-11-30 04:14:34.644', '[]', X'E3FBB950232776B6810C8C9D0721507870A459E78F8BA46C2A4967A8660D61B0', 241);
INSERT INTO river_job (id, args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata, priority, queue, state, scheduled_at, tags, unique_key, unique_states) VALUES (4, X'7B226964223A226C61746572222C226E616D65223A226A6F62222C2261726773223A6E756C6C7D', 0, NULL, NULL, '2026-11-30 04:14:34.645', NULL, NULL, 'tether', 32767, '{"job":"job","river:unique_nonce":"1012f1a9959d6af4"}', 1, 'tether', 'scheduled', '2030-01-02 03:04:05', '[]', NULL, NULL);
INSERT INTO tether_worker (id, since, seen) VALUES ('tether-MDGBNOYA3JWBMTHCFLH4J7ANF3', 2461374.6767894444, 2461374.6767895254);
