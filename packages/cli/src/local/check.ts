/** One thing that `rbees doctor` has looked at. */
export interface Check {
  name: string;
  level: "ok" | "warn" | "fail";
  found: string;
  /** What to do about it. */
  next?: string;
}
