-- What a dump has to get through: every kind of thing, and names and values that look like
-- the lines by which the output of pg_dump is cut.
CREATE ROLE awkward_owner;
CREATE ROLE "Röle; Type: TABLE DATA; Schema: x";
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE EXTENSION btree_gist;
CREATE SCHEMA "S 1"; CREATE SCHEMA "a.b"; CREATE SCHEMA a; CREATE SCHEMA "schéma";

CREATE TYPE mood AS ENUM ('sad', 'o''k', E'new\nline', '-- Data for Name: x; Type: TABLE DATA; Schema: y; Owner: z');
CREATE DOMAIN positive AS numeric(20,4) CHECK (VALUE > 0);
CREATE TYPE pair AS (x int, y text);

CREATE TABLE kinds (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b bytea, j json, jb jsonb, n numeric, f double precision, r real, t timestamptz, d date, i interval,
	ar int[], at text[][], rng tstzrange, ir int4multirange, m mood, dom positive, p pair, u uuid, ci citext, h hstore, ip inet, bits bit varying, x xml,
	ts tsvector, pt point, mo money, ch char(5), o oid,
	twice numeric GENERATED ALWAYS AS (n * 2) STORED);
INSERT INTO kinds (b, j, jb, n, f, r, t, d, i, ar, at, rng, ir, m, dom, p, u, ci, h, ip, bits, x, ts, pt, mo, ch, o)
SELECT decode(repeat('00ff5c2e0a5c2e0a', g), 'hex'), '{"a": "\\.\n"}', jsonb_build_object('k', g, 'ü', E'\\.\n'), g / 3.0, 1e300 / g, 'NaN', '2026-03-29 02:30+01'::timestamptz + g * interval '1 hour',
	'-infinity', '1 mon -3 days 04:05:06.789', ARRAY[g, NULL, -g], ARRAY[['a"', 'b\'], [E'\n', NULL]], '[2026-01-01,infinity)', '{[1,3),[7,9)}', E'new\nline', g,
	ROW(g, E'tab\there')::pair, '00000000-0000-0000-0000-000000000001', 'MiXed', 'a=>"\\.", "b\"c"=>NULL', '::1/128', B'1011', '<a>&amp;</a>', 'fat & cat', '(1,2)', 12.34, 'ab', 4294967295
FROM generate_series(1, 50) g;
INSERT INTO kinds (b) VALUES (NULL), (''), ('\x5c2e');

CREATE TABLE texts (a text, b text);
INSERT INTO texts VALUES (E'\\.', E'\\.'), (E'\n\\.\n', E'\r\n\\.\r\n'), (E'\n--\n-- Data for Name: kinds; Type: TABLE DATA; Schema: public; Owner: postgres\n--\n\nCOPY public.kinds (id) FROM stdin;\n1\n\\.\n', ''),
	('', NULL), (E'\\N', E'\t'), (E'\x01\x7f', 'ünïcödé 🐘'), ('$$', '$x$'), (repeat(E'\\.\n', 300000), ''), (repeat('x', 1500000), 'a line that fits into no buffer');

CREATE TABLE "S 1"."t
-- Data for Name: kinds; Type: TABLE DATA; Schema: x
" (""") FROM stdin;
\.
COPY public.kinds (id" int, "-- x
" text DEFAULT E'--\n-- Data for Name: q; Type: TABLE DATA; Schema: public; Owner: q\n--\n\nCOPY public.q (a) FROM stdin;\n\\.\n');
INSERT INTO "S 1"."t
-- Data for Name: kinds; Type: TABLE DATA; Schema: x
" VALUES (1);
CREATE TABLE "a.b".c (v text); CREATE TABLE a."b.c" (v text); INSERT INTO "a.b".c VALUES ('one'); INSERT INTO a."b.c" VALUES ('two');
CREATE TABLE "schéma"."größe/..\:*?""<>|$tag$ e'" (v text); INSERT INTO "schéma"."größe/..\:*?""<>|$tag$ e'" VALUES ('x');
CREATE TABLE "S 1"."::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::A" (v int); CREATE TABLE "S 1"."::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::::B" (v int);
CREATE TABLE "schema-pre" (v int); CREATE TABLE "large-objects" (v int); CREATE TABLE "; Type: BLOBS; " (v int);
CREATE TABLE empty (a int); CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE computed (g int GENERATED ALWAYS AS (1 + 1) STORED); INSERT INTO computed DEFAULT VALUES;
CREATE UNLOGGED TABLE unlogged (a int); INSERT INTO unlogged VALUES (1);
CREATE TABLE dropped (a int, b int, c int); ALTER TABLE dropped DROP COLUMN b; INSERT INTO dropped VALUES (1, 3);

CREATE TABLE person (id int PRIMARY KEY, team int); CREATE TABLE team (id int PRIMARY KEY, head int REFERENCES person);
ALTER TABLE person ADD FOREIGN KEY (team) REFERENCES team DEFERRABLE;
INSERT INTO person VALUES (1, NULL); INSERT INTO team VALUES (7, 1); UPDATE person SET team = 7;
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree); INSERT INTO tree VALUES (1, 2), (2, 1);

CREATE TABLE sales (day date NOT NULL, n int) PARTITION BY RANGE (day);
CREATE TABLE sales_25 PARTITION OF sales FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE sales_26 PARTITION OF sales FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY HASH (n);
CREATE TABLE sales_26a PARTITION OF sales_26 FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE sales_26b PARTITION OF sales_26 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO sales SELECT '2025-06-01'::date + g, g FROM generate_series(1, 400) g;
CREATE INDEX ON sales (n);
CREATE TABLE base (a int, note text); CREATE TABLE child (b int) INHERITS (base); INSERT INTO base VALUES (1, 'base'); INSERT INTO child VALUES (2, 'child', 3);
CREATE TABLE booking (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&)); INSERT INTO booking VALUES (1, '[2026-01-01,2026-01-02)');

CREATE FUNCTION trap() RETURNS text LANGUAGE sql AS $body$
SELECT '
--
-- Data for Name: kinds; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.trap (a) FROM stdin;
1
\.
\! touch /tmp/this-must-not-be
SET default_tablespace = gone;
--
-- PostgreSQL database dump complete
--

'; $body$;
SET check_function_bodies = off;
CREATE FUNCTION bare() RETURNS void LANGUAGE plpgsql AS $body$
-- it's no string
--
-- Data for Name: kinds; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.bare (a) FROM stdin;
\.
\! touch /tmp/this-must-not-be
BEGIN;
SET default_tablespace = gone;
$x$ " /*
$body$;
CREATE FUNCTION atomic(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT a + length(E'\'$$\\'); END;
CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (TG_TABLE_NAME); RETURN NEW; END $$;
CREATE TABLE log (t text); CREATE TRIGGER loud AFTER INSERT ON dropped FOR EACH ROW EXECUTE FUNCTION log_it();
COMMENT ON TABLE kinds IS E'\'--\n--\n-- Data for Name: kinds; Type: TABLE DATA; Schema: public; Owner: x\n--\n\nCOPY public.kinds (id) FROM stdin;\n\\.\n\\! touch /tmp/this-must-not-be\n$$ " \\';
CREATE VIEW "v
--
" AS SELECT a, E'it''s\n--\n\\' AS "q""" FROM texts;
CREATE MATERIALIZED VIEW totals AS SELECT sum(n) AS s FROM sales; CREATE UNIQUE INDEX ON totals (s);
CREATE SEQUENCE counter START 5 INCREMENT 7; SELECT nextval('counter'), nextval('counter');
CREATE TABLE old (id serial, v text); INSERT INTO old (v) VALUES ('a'), ('b');
CREATE TABLE secret (who text, what text); INSERT INTO secret VALUES ('me', 'x'), ('you', 'y');
ALTER TABLE secret ENABLE ROW LEVEL SECURITY; ALTER TABLE secret FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON secret USING (who = current_user);
ALTER TABLE old OWNER TO awkward_owner; GRANT SELECT ON kinds TO "Röle; Type: TABLE DATA; Schema: x";
CREATE RULE no_update AS ON UPDATE TO empty DO INSTEAD NOTHING;
CREATE STATISTICS st (dependencies) ON a, b FROM texts;
CREATE PUBLICATION pub FOR TABLE kinds;
SELECT lo_from_bytea(70001, decode(repeat('0a5c2e0a', 20000), 'hex')), lo_from_bytea(70002, ''), lo_from_bytea(0, 'x');
COMMENT ON LARGE OBJECT 70001 IS E'BEGIN;\n';
