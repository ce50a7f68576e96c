// Elements. Everything a program supplied goes through text nodes; nothing here reads markup.

export type Child = Node | string | null | undefined;
type Attributes = Record<string, string>;

export function append<T extends Element>(element: T, ...children: Child[]): T {
    for (const child of children) if (child !== null && child !== undefined) element.append(child);
    return element;
}

function setAttributes(element: Element, attributes: Attributes): void {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

export function h<K extends keyof HTMLElementTagNameMap>(
    tag: K,
    attributes: Attributes = {},
    ...children: Child[]
): HTMLElementTagNameMap[K] {
    const element = document.createElement(tag);
    setAttributes(element, attributes);
    return append(element, ...children);
}

export function svg<K extends keyof SVGElementTagNameMap>(
    tag: K,
    attributes: Attributes = {},
    ...children: Child[]
): SVGElementTagNameMap[K] {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    setAttributes(element, attributes);
    return append(element, ...children);
}

/** Text of the program, kept from turning the text around it (right-to-left, overrides). */
export const bdi = (text: string, attributes: Attributes = {}): HTMLElement => h("bdi", attributes, text);

export function button(label: string, attributes: Attributes, onClick: () => void): HTMLButtonElement {
    const element = h("button", { type: "button", ...attributes }, label);
    element.addEventListener("click", onClick);
    return element;
}

/** A labelled choice; options are [value, label]. */
export function choice(
    label: string,
    options: [string, string][],
    chosen: string,
    onChange: (value: string) => void,
): HTMLLabelElement {
    const select = h("select", {}, ...options.map(([value, text]) => h("option", { value }, text)));
    select.value = chosen;
    select.addEventListener("change", () => onChange(select.value));
    return h("label", { class: "choice" }, label, " ", select);
}

/** Calls back once the typing pauses. */
export function whenTyped(input: HTMLInputElement, callback: (text: string) => void): void {
    let timer = 0;
    input.addEventListener("input", () => {
        clearTimeout(timer);
        timer = window.setTimeout(() => callback(input.value.trim()), 120);
    });
}

export const nextFrame = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));
