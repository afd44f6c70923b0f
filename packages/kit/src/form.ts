/** A form with files (multipart/form-data), taken apart. */
import { RbeesError } from "@rbees/contracts/errors";

/** The fields by their names; a file as its name and bytes. */
export async function formFields(body: Buffer, content_type: string): Promise<Record<string, unknown>> {
  let form: FormData;
  try {
    form = await new Response(new Uint8Array(body), { headers: { "content-type": content_type } }).formData();
  } catch {
    throw new RbeesError("INVALID_REQUEST", "The form can't be read: its parts or their boundary are not as multipart/form-data has them.");
  }
  const fields: Record<string, unknown> = {};
  for (const [name, value] of form) {
    fields[name] = typeof value === "string" ? value : { name: value.name, bytes: new Uint8Array(await value.arrayBuffer()) };
  }
  return fields;
}
