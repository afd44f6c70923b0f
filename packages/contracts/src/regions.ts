/**
 * Where a worker stands, and which areas that is in. A region begins with the country's ISO 3166-1 code (`de`, `fr-par-2`), or is `eu`
 * where the country is not told. What clouds call their regions says nothing by itself: `eu-west-1` is Ireland in one and London in
 * another, `eu-central-2` is Zurich. So no such name is in the EU, and neither is a worker that declares none.
 */
const EU = "at be bg cy cz de dk ee es fi fr gr hr hu ie it lt lu lv mt nl pl pt ro se si sk".split(" ");
const EFTA_IN_EEA = ["is", "li", "no"];

/** The areas that have a name of their own, with the countries in each. */
export const AREAS: Readonly<Record<string, ReadonlySet<string>>> = {
  EU: new Set([...EU, "eu"]),
  EEA: new Set([...EU, "eu", ...EFTA_IN_EEA]),
};

/** What a region or an area may look like. */
export const REGION = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
export const REGION_FORM = "up to 63 letters, digits and . _ -, the country's code first, such as de or fr-par-2";

/** As areas are compared: `EU` and `EEA` in capitals, all else in small letters. */
export function areaName(text: string): string {
  const upper = text.toUpperCase();
  return Object.hasOwn(AREAS, upper) ? upper : text.toLowerCase();
}

/** Every area that the region is in: itself, what it is a part of (`fr-par`, `fr`), `EU`, `EEA`. None of a region that is not told. */
export function areasOf(region: string | undefined): string[] {
  if (region === undefined || region === "") return [];
  const parts = region.toLowerCase().split("-");
  const [country = ""] = parts;
  const own = parts.map((_, at) => parts.slice(0, parts.length - at).join("-"));
  // A country's code alone, or more than `eu` itself: of what follows `eu-` nothing is known.
  const named = country !== "eu" || parts.length === 1;
  return [...own, ...Object.keys(AREAS).filter((area) => named && AREAS[area]?.has(country))];
}
