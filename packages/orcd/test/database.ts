/**
 * What an orchestrator's database holds, read beside the orchestrator that writes it, in the same process. So through the
 * store's own library: two copies of SQLite in one process do not hold each other's locks (those belong to the process), and
 * a look through the other copy may find half of the log, or end the process with SIGBUS.
 */
import Sqlite from "better-sqlite3";

/** Rows as SQLite has them: numbers, strings, bytes, null. */
export function rowsIn<Row>(database: string, query: string, ...values: unknown[]): Row[] {
  const db = new Sqlite(database, { readonly: true });
  try {
    return db.prepare(query).all(...values) as Row[];
  } finally {
    db.close();
  }
}

/** The audit entries' records, oldest first; `where` narrows them. */
// biome-ignore lint/suspicious/noExplicitAny: a record has the fields of its kind, which the test knows
export function recordsIn(database: string, where = "true", ...values: unknown[]): Record<string, any>[] {
  return rowsIn<{ record: string }>(database, `select record from audit where ${where} order by seq`, ...values).map(({ record }) =>
    JSON.parse(record),
  );
}

/** For tests that put something into a database that no orchestrator has open. */
export function opened(database: string): Sqlite.Database {
  return new Sqlite(database);
}
