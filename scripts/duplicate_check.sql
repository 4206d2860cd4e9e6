-- Does a table hold a record twice?
--
-- Plain SQL that runs unchanged on Trino, Spark and DuckDB. It reads a view named icestream_check, which
-- says once which table and which business key are meant, in your engine's own way of naming tables:
--
--   CREATE VIEW icestream_check AS
--   SELECT _kafka_topic, _kafka_partition, _kafka_offset, sample_id AS business_key
--   FROM health.readings
--
--   Trino    first USE the catalog and schema of the table, or of any that allows views
--   Spark    CREATE TEMPORARY VIEW, and the table as catalog.namespace.table
--   DuckDB   CREATE TEMPORARY VIEW, and the table as iceberg_scan('.../metadata/....metadata.json')
--
-- Where the table has no business key, put CAST(NULL AS VARCHAR(10)) AS business_key. For a part of the
-- table add a WHERE to the view.
--
-- One row for each check:
--   row_count       rows looked at (rows without the key are not)
--   distinct_count  different keys among them
--   repeat_count    rows too many: row_count - distinct_count, and 0 in a table without duplicates
--
-- Two rows of one Kafka position are one record written twice: that must never be. Two rows of one business
-- key at different positions are two records: the producer sent it twice.
--
-- scripts/duplicate-check does all this for the table of an env file.

SELECT
    'all rows' AS check_name,
    COUNT(*) AS row_count,
    COUNT(*) AS distinct_count,
    CAST(0 AS BIGINT) AS repeat_count
FROM icestream_check

UNION ALL

SELECT
    'kafka position' AS check_name,
    CAST(COALESCE(SUM(copies), 0) AS BIGINT) AS row_count,
    COUNT(*) AS distinct_count,
    CAST(COALESCE(SUM(copies - 1), 0) AS BIGINT) AS repeat_count
FROM (
    SELECT COUNT(*) AS copies
    FROM icestream_check
    WHERE _kafka_offset IS NOT NULL
    GROUP BY _kafka_topic, _kafka_partition, _kafka_offset
) positions

UNION ALL

SELECT
    'business key' AS check_name,
    CAST(COALESCE(SUM(copies), 0) AS BIGINT) AS row_count,
    COUNT(*) AS distinct_count,
    CAST(COALESCE(SUM(copies - 1), 0) AS BIGINT) AS repeat_count
FROM (
    SELECT COUNT(*) AS copies
    FROM icestream_check
    WHERE business_key IS NOT NULL
    GROUP BY business_key
) business_keys

ORDER BY check_name
