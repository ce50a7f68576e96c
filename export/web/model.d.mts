export interface ModelColumn {
    name: string;
    type: string;
    unit: string;
    label: string;
    meaning: string;
}
export interface ModelTable {
    name: string;
    many: boolean;
    columns: ModelColumn[];
}
export function parseModel(text: string): ModelTable[];
export function modelSource(tables: ModelTable[]): string;
