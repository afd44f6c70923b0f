/**
 * Where a worker stands, and which areas that is in. A region begins with the country's ISO 3166-1 code (`de`, `fr-par-2`), or is `eu`
 * where the country is not told. What clouds call their regions says nothing by itself: `eu-west-1` is Ireland in one and London in
 * another, `eu-central-2` is Zurich. So no such name is in the EU, and neither is a worker that declares none. A country that there is not
 * is refused wherever one is named: nothing would ever be in it, and whatever must stay there would wait without a word.
 */
import { z } from "zod";

/** The codes of ISO 3166-1, and `xk`, by which Kosovo goes without being in it. */
const COUNTRIES: ReadonlySet<string> = new Set(
  [
    "ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt bv bw by bz ca cc cd cf cg ch ci",
    "ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh er es et fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq",
    "gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls",
    "lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg",
    "ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td tf tg th tj tk",
    "tl tm tn to tr tt tv tw tz ua ug um us uy uz va vc ve vg vi vn vu wf ws xk ye yt za zm zw",
  ].flatMap((line) => line.split(" ")),
);
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

const CODES = "ISO 3166-1 code, such as de, fr-par-2 or gb";
/** Whether its country is one; `eu` is for whoever does not tell which. */
const isRegion = (region: string) => {
  const [country = ""] = region.toLowerCase().split("-");
  return country === "eu" || COUNTRIES.has(country);
};
const noRegion = (region: string) => `names no country that there is (${region}): it begins with an ${CODES}, or is eu`;
const noArea = (area: string) =>
  `names no area or country that there is (${area}): there are ${Object.keys(AREAS).join(", ")}, and countries by their ${CODES}`;

/** What is wrong with the place in which something is said to stand; undefined: nothing. */
export function regionProblem(region: string): string | undefined {
  if (!REGION.test(region)) return `must be ${REGION_FORM}`;
  return isRegion(region) ? undefined : noRegion(region);
}

// What is not of the form has said so by then.
const unformed = (text: string) => !REGION.test(text);

/** Where something stands. */
export const Region = z
  .string()
  .regex(REGION, REGION_FORM)
  .refine((region) => unformed(region) || isRegion(region), { error: ({ input }) => noRegion(String(input)) });

/** What something must not leave: an area that has a name of its own, or a region. */
export const Area = z
  .string()
  .regex(REGION, REGION_FORM)
  .refine((area) => unformed(area) || Object.hasOwn(AREAS, areaName(area)) || isRegion(area), {
    error: ({ input }) => noArea(String(input)),
  });

/** What is wrong with an area that is named; undefined: nothing. */
export function areaProblem(area: string): string | undefined {
  return Area.safeParse(area).error?.issues[0]?.message;
}

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
