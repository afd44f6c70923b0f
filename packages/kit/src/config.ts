/**
 * Configuration of a program: defaults ← TOML file ← environment ← flags. A program states its settings once, as a table;
 * parsing, help, the printed configuration and the report of every problem at once come from the table.
 * This is the only file that reads `process.env`.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { RbeesError } from "@rbees/contracts/errors";
import { parse as parseToml, TomlError } from "smol-toml";

export type Environment = Readonly<Record<string, string | undefined>>;

/** The process's environment: taken once, by a `main`, and handed on. */
export function environment(): Environment {
  return process.env;
}

/** How one setting is read. `read` gets text from flags and environment, any TOML value from the file; a string says what is wrong. */
export interface Setting<T> {
  readonly default: T;
  readonly help: string;
  readonly kind: "text" | "number" | "switch" | "list";
  readonly read: (value: unknown) => { value: T } | { problem: string };
  /** Masked when the configuration is printed. */
  readonly secret?: boolean;
  /** Further environment names, such as those of the earlier project. */
  readonly env?: readonly string[];
}
export type Settings = Readonly<Record<string, Setting<unknown>>>;
export type ConfigOf<S extends Settings> = { readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : never };

/** The tables of the one file that all programs read: what else stands in it nobody would ever look at. */
const CONFIG_SECTIONS = ["orcd", "workerd"] as const;

type Options<T> = { default: T; help: string; env?: readonly string[]; secret?: boolean };

/** A whole or decimal number within bounds; the unit is part of the setting's name. */
export function number(options: Options<number> & { min?: number; max?: number; whole?: boolean }): Setting<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER, whole = true, ...rest } = options;
  return {
    ...rest,
    kind: "number",
    read(raw) {
      const value = typeof raw === "string" && raw.trim() !== "" ? Number(raw) : raw;
      if (typeof value !== "number" || Number.isNaN(value) || (whole && !Number.isInteger(value))) {
        return { problem: `must be a ${whole ? "whole " : ""}number` };
      }
      return value < min || value > max ? { problem: `must be from ${min} to ${max}` } : { value };
    },
  };
}

export function text<T extends string = string>(options: Options<T> & { one_of?: readonly T[]; matches?: RegExp }): Setting<T> {
  const { one_of, matches, ...rest } = options;
  return {
    ...rest,
    kind: "text",
    read(raw) {
      if (typeof raw !== "string") return { problem: "must be text" };
      if (one_of !== undefined && !one_of.includes(raw as T)) return { problem: `must be one of ${one_of.join(", ")}` };
      if (matches !== undefined && !matches.test(raw)) return { problem: `must match ${matches}` };
      return { value: raw as T };
    },
  };
}

export function flag(options: Options<boolean>): Setting<boolean> {
  return {
    ...options,
    kind: "switch",
    read(raw) {
      if (typeof raw === "boolean") return { value: raw };
      if (raw === "true" || raw === "1" || raw === "yes") return { value: true };
      return raw === "false" || raw === "0" || raw === "no" ? { value: false } : { problem: "must be true or false" };
    },
  };
}

/** `k=v,k=v` as text, a table in TOML. */
export function pairs(options: Options<Readonly<Record<string, string>>>): Setting<Readonly<Record<string, string>>> {
  return {
    ...options,
    kind: "list",
    read(raw) {
      if (typeof raw === "object" && raw !== null && !Array.isArray(raw)) {
        return { value: Object.fromEntries(Object.entries(raw).map(([key, value]) => [key, String(value)])) };
      }
      if (typeof raw !== "string") return { problem: "must be key=value pairs" };
      const entries = raw
        .split(",")
        .filter((pair) => pair !== "")
        .map((pair): [string, string] => [pair.slice(0, Math.max(0, pair.indexOf("="))), pair.slice(pair.indexOf("=") + 1)]);
      if (entries.some(([key]) => key === "")) return { problem: "must be key=value,key=value" };
      return { value: Object.fromEntries(entries) };
    },
  };
}

export interface Loaded<S extends Settings> {
  readonly config: ConfigOf<S>;
  /** Where each value came from: `default`, `file PATH`, `env NAME`, `flag --name`. */
  readonly source: Readonly<Record<keyof S, string>>;
  /** What remained of the command line, such as a verb. */
  readonly rest: readonly string[];
}

/**
 * Reads all sources. `section` is the program's table in the TOML file. Throws one INVALID_REQUEST that lists every
 * problem with its source.
 */
export function loadConfig<S extends Settings>(
  settings: S,
  sources: {
    section: (typeof CONFIG_SECTIONS)[number];
    argv: readonly string[];
    env: Environment;
    file?: string | undefined;
    file_required?: boolean;
  },
): Loaded<S> {
  const problems: { field: string; problem: string }[] = [];
  const { values: flags, rest } = readFlags(settings, sources.argv, problems);
  const table = sources.file === undefined ? {} : readFile(sources.file, sources.section, sources.file_required ?? false, problems);
  const file = flat(table, settings);
  for (const key of Object.keys(file)) {
    if (!Object.hasOwn(settings, key)) problems.push({ field: `${sources.file} [${sources.section}] ${key}`, problem: "unknown setting" });
  }
  const config: Record<string, unknown> = {};
  const source: Record<string, string> = {};
  for (const [key, setting] of Object.entries(settings)) {
    config[key] = setting.default;
    source[key] = "default";
    const found: [string, unknown][] = [];
    if (Object.hasOwn(file, key)) found.push([`file ${sources.file}`, file[key]]);
    for (const name of [...(setting.env ?? []), `RBEES_${key.toUpperCase()}`]) {
      const value = sources.env[name];
      if (value !== undefined && value !== "") found.push([`env ${name}`, value]);
    }
    if (key in flags) found.push([`flag --${kebab(key)}`, flags[key]]);
    for (const [from, raw] of found) {
      const read = setting.read(raw);
      if ("problem" in read) problems.push({ field: `${kebab(key)} (${from})`, problem: read.problem });
      else {
        config[key] = read.value;
        source[key] = from;
      }
    }
  }
  if (problems.length > 0) {
    const lines = problems.map(({ field, problem }) => `  ${field}: ${problem}`).join("\n");
    throw new RbeesError("INVALID_REQUEST", `The configuration is not valid:\n${lines}`, { details: problems });
  }
  return { config: Object.freeze(config) as ConfigOf<S>, source: source as Record<keyof S, string>, rest };
}

function readFlags(settings: Settings, argv: readonly string[], problems: { field: string; problem: string }[]) {
  const options = Object.fromEntries(
    Object.entries(settings).map(([key, { kind }]) => [kebab(key), { type: kind === "switch" ? "boolean" : "string" } as const]),
  );
  const { values, positionals, tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });
  const known = new Set(Object.keys(options));
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    if (!known.has(token.name)) problems.push({ field: token.rawName, problem: "unknown flag; --help lists them" });
    else if (
      options[token.name]?.type === "string" &&
      (token.value === undefined || (!token.inlineValue && token.value.startsWith("--")))
    ) {
      problems.push({ field: token.rawName, problem: "needs a value" });
      delete values[token.name];
    }
  }
  const found = Object.fromEntries(
    Object.keys(settings)
      .filter((key) => kebab(key) in values)
      .map((key) => [key, values[kebab(key)]]),
  );
  return { values: found as Record<string, unknown>, rest: positionals };
}

/** `tls.cert`, a table within the table, says the same as `tls_cert`. */
function flat(table: Record<string, unknown>, settings: Settings): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(table).flatMap(([key, value]) =>
      typeof value === "object" && value !== null && !Array.isArray(value) && !Object.hasOwn(settings, key)
        ? Object.entries(value).map(([inner, one]): [string, unknown] => [`${key}_${inner}`, one])
        : [[key, value] as [string, unknown]],
    ),
  );
}

function readFile(path: string, section: string, required: boolean, problems: { field: string; problem: string }[]) {
  let source: string;
  try {
    source = readFileSync(path, "utf8");
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    if (!missing || required) problems.push({ field: path, problem: missing ? "there is no such file" : (error as Error).message });
    return {};
  }
  try {
    const tables = parseToml(source);
    for (const name of Object.keys(tables)) {
      if (!(CONFIG_SECTIONS as readonly string[]).includes(name)) {
        problems.push({
          field: `${path} ${name}`,
          problem: `belongs to no program; settings stand below [${CONFIG_SECTIONS.join("] or [")}]`,
        });
      }
    }
    const table = tables[section] ?? {};
    if (typeof table === "object" && !Array.isArray(table)) return table as Record<string, unknown>;
    problems.push({ field: `${path} [${section}]`, problem: "must be a table" });
    return {};
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    problems.push({ field: `${path}:${error.line}:${error.column}`, problem: error.message.split("\n", 1)[0] ?? "not TOML" });
    return {};
  }
}

/** Every setting with its value and where it came from, secrets masked: what `… config` prints. */
export function describeConfig<S extends Settings>(settings: S, { config, source }: Loaded<S>): string {
  return Object.entries(settings)
    .map(([key, setting]) => {
      const value = config[key as keyof S];
      const shown = setting.secret && value !== "" ? '"***"' : JSON.stringify(value);
      return `${key} = ${shown}  # ${source[key as keyof S]}`;
    })
    .join("\n");
}

/** The flags of a program, for `--help`. */
export function describeFlags(settings: Settings): string {
  const rows = Object.entries(settings).map(([key, setting]) => {
    const sign = `--${kebab(key)}${setting.kind === "switch" ? "" : ` <${setting.kind === "list" ? "k=v,…" : setting.kind}>`}`;
    const fallback = setting.secret || setting.default === "" ? "" : ` (default ${JSON.stringify(setting.default)})`;
    return [sign, `${setting.help}${fallback}`] as const;
  });
  const width = Math.max(...rows.map(([sign]) => sign.length));
  return rows.map(([sign, help]) => `  ${sign.padEnd(width)}  ${help}`).join("\n");
}

function kebab(key: string): string {
  return key.replaceAll("_", "-");
}
