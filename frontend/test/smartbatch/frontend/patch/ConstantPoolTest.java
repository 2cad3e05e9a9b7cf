package smartbatch.frontend.patch;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;

import java.io.InputStream;
import java.lang.invoke.MethodHandles;
import java.util.ArrayList;
import java.util.List;
import org.junit.Test;

public class ConstantPoolTest {
    /** A list that says what it is. */
    public static class Ours extends ArrayList<Object> {
        /** Same name and descriptor as {@link Integer#parseInt(String)}. */
        public static int parseInt(String text) {
            return -1;
        }
    }

    /** What is compiled against the JDK's classes. */
    public static class Subject {
        public List<Object> list() {
            return new ArrayList<>();
        }

        public long number() {
            return Integer.parseInt("7") + 1L + Long.parseLong("9");
        }
    }

    private static byte[] subject() throws Exception {
        try (InputStream in = ConstantPoolTest.class.getResourceAsStream("ConstantPoolTest$Subject.class")) {
            return in.readAllBytes();
        }
    }

    private static Object define(byte[] classFile) throws Exception {
        Class<?> defined = MethodHandles.lookup().defineHiddenClass(classFile, true).lookupClass();
        return defined.getDeclaredConstructor().newInstance();
    }

    @Test
    public void classesAndStaticCallsGoElsewhere() throws Exception {
        String ours = "smartbatch/frontend/patch/ConstantPoolTest$Ours";
        Object changed =
                define(
                        new ConstantPool(subject())
                                .renameClass("java/util/ArrayList", ours)
                                .redirectStatic("java/lang/Integer", "parseInt", ours)
                                .toByteArray());
        assertSame(Ours.class, changed.getClass().getMethod("list").invoke(changed).getClass());
        assertEquals(-1L + 1L + 9L, changed.getClass().getMethod("number").invoke(changed));
    }

    @Test
    public void whatIsNotThereIsAnError() throws Exception {
        ConstantPool pool = new ConstantPool(subject());
        Throwable e = assertThrows(IllegalArgumentException.class, () -> pool.renameClass("java/util/HashMap", "x"));
        assertEquals("the class does not mention java/util/HashMap", e.getMessage());
    }
}
