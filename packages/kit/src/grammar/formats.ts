/** The formats of strings that can be asked for, each as the regular expression of what is then said: a part of what the format allows. */
const DATE = "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))";
const TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
const LABEL = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?";
const HOST = `${LABEL}(\\.${LABEL}){1,4}`;
const BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const CLOCK = "T([0-9]{1,4}H([0-9]{1,4}M)?([0-9]{1,4}S)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S)";

export const FORMATS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    date: DATE,
    time: TIME,
    "date-time": `${DATE}T${TIME}`,
    duration: `P([0-9]{1,4}W|[0-9]{1,4}Y([0-9]{1,4}M)?([0-9]{1,4}D)?|[0-9]{1,4}M([0-9]{1,4}D)?|[0-9]{1,4}D(${CLOCK})?|${CLOCK})`,
    uuid: "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    email: `[a-z0-9]+([._-][a-z0-9]+){0,4}@${HOST}`,
    hostname: HOST,
    ipv4: `${BYTE}(\\.${BYTE}){3}`,
    ipv6: "[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}",
    uri: `https?://${HOST}(/[a-zA-Z0-9._~-]{1,40}){0,8}/?`,
  }).map(([name, source]) => [name, `^(${source})$`]),
);
