import java.io.FileReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Runs SQL on an Apache Flink in this very process: JobManager and TaskManager in one JVM.
 *
 * <p>Usage: {@code java FlinkSql SETTINGS SCRIPT...}, where SETTINGS is a Java properties file with
 * Flink's settings and each SCRIPT a file of statements that end with a semicolon at the end of a
 * line. The scripts run one after the other; the last statement of each is waited for. Prints
 * {@code begin N} and {@code end N} around script N, and then waits until it is killed.
 */
public final class FlinkSql {
  private FlinkSql() {}

  public static void main(String[] args) throws Exception {
    if (args.length < 2) {
      System.err.println("usage: FlinkSql SETTINGS SCRIPT...");
      System.exit(2);
    }
    Properties file = new Properties();
    try (FileReader reader = new FileReader(args[0])) {
      file.load(reader);
    }
    Map<String, String> settings = new HashMap<>();
    file.stringPropertyNames().forEach(name -> settings.put(name, file.getProperty(name)));
    for (int script = 1; script < args.length; script++) {
      TableEnvironment environment =
          TableEnvironment.create(
              EnvironmentSettings.newInstance()
                  .inStreamingMode()
                  .withConfiguration(Configuration.fromMap(settings))
                  .build());
      String[] statements = Files.readString(Path.of(args[script])).strip().split(";\\s*(\\n|$)");
      System.out.println("begin " + script);
      for (int i = 0; i < statements.length; i++) {
        var result = environment.executeSql(statements[i]);
        if (i == statements.length - 1) {
          result.await();
        }
      }
      System.out.println("end " + script);
    }
    // What this process used can be looked up until it is killed.
    Thread.currentThread().join();
  }
}
